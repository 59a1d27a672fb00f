"""The command that makes a run again, from what its record says of its configuration."""

import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

_GROUPS = ("dataset", "backbone", "prompts", "method", "protocol")
_OWN = {"name"}  # said by the choice of the group's file
_CATEGORIES = "categories"  # in a record, all that the run is over: what is run without a choice


def rerun_command(config: Mapping[str, Any]) -> str:
    """A line for a shell, with every setting that the numbers depend on and the defaults do not give.

    config   of a record
    """
    return shlex.join(["python", "run.py", *_overrides(config)])


def _overrides(config: Mapping[str, Any]) -> Iterator[str]:
    for group in _GROUPS:
        choice, defaults = _choice(group, config[group])
        yield f"{group}={choice}"
        for key, value in config[group].items():
            if key in _OWN and value == defaults.get(key):
                continue
            if key in defaults and _is_plain(defaults[key]):
                if value == defaults[key]:
                    continue
            elif (group == "dataset" and key == _CATEGORIES) or not value:  # the schema's own defaults
                continue
            yield f"{group}.{key}={hydra_value(value)}"
    defaults = _yaml("config.yaml")
    for key in ("k_shot", "seed", "stage", "scales"):
        if (key != "seed" or config["k_shot"]) and config.get(key) != defaults.get(key):
            yield f"{key}={hydra_value(config[key])}"
    if config["runtime"]["precision"] != defaults["runtime"]["precision"]:
        yield f"runtime.precision={hydra_value(config['runtime']['precision'])}"
    references = config.get("references")
    if isinstance(references, Mapping) and references.get("file"):
        yield f"references.file={hydra_value(references['file'])}"


def _choice(group: str, content: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The group's file that comes nearest, by its stem, and what it says."""
    found = {name: _content(group, name) for name in _options(group)}
    key = "layout" if group == "dataset" else "name"
    same = [name for name, file in found.items() if file.get("name") == content.get("name")]
    same += [name for name, file in found.items() if file.get(key) == content.get(key)]
    name = same[0] if same else sorted(found)[0]
    return name, found[name]


def _content(group: str, name: str) -> Mapping[str, Any]:
    content = _yaml(f"{group}/{name}.yaml")
    return content.get(group, content) if group == "dataset" else content


@cache
def _options(group: str) -> tuple[str, ...]:
    folder = files("winclip_bench.conf") / group
    return tuple(sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")))


@cache
def _yaml(name: str) -> dict[str, Any]:
    content = yaml.safe_load((files("winclip_bench.conf") / name).read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def _is_plain(value: Any) -> bool:
    """Whether a value is what it says, and not made from another one when the configuration is composed."""
    return not (isinstance(value, str) and "${" in value)


def hydra_value(value: Any) -> str:
    """A value as Hydra's command line takes it.

    >>> print(hydra_value([2, 3]), hydra_value({"a b": "it's"}), hydra_value(None), hydra_value("plain"))
    [2,3] {'a b':'it\\'s'} null plain
    """
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{hydra_value(str(key))}:{hydra_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(hydra_value, value)) + "]"
    if isinstance(value, str):
        if re.fullmatch(r"[A-Za-z_/][\w./-]*", value) and value.lower() not in {"null", "true", "false", "nan", "inf"}:
            return value
        return "'" + re.sub(r"(\\+)(?=$|')", r"\1\1", value).replace("'", r"\'") + "'"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)
