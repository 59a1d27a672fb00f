"""Published numbers and the settings that they were obtained under, read from ``results/published``.

Every ``*.csv`` there is a table of claims; ``settings.yaml`` says of each row what a record must have to be compared
with it, ``dataset_counts.json`` how many images each class of a whole dataset has.
"""

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import yaml

from winclip_bench.errors import InputError, printable

MEAN = "mean"  # the object of a row that is about the mean over all classes of its dataset
SETTINGS, COUNTS = "settings.yaml", "dataset_counts.json"

_RULE = {"rows", "means", "metrics", "experiment", "draws", "options", "config", "weights", "counts", "outside"}


@dataclass(frozen=True)
class Settings:
    """What a record must have to be compared with a claim.

    dataset, object, k_shot, metric   the claim's row in the words of records; object is a category or ``mean``
    experiment  name of the file in conf/experiment whose runs are comparable
    draws       of the references that the claim is a mean over; None where nothing is drawn
    options     group of conf/ -> content of its option: what a record's configuration must hold there
    config      dotted key of the configuration, outside of these groups -> value
    weights     sha256 of the checkpoints known to be the claim's; empty where none is required
    counts      category -> what the counts of a record of the whole dataset hold; empty where nobody knows
    outside     why this harness cannot have such a record; None where it can
    """

    dataset: str
    object: str
    k_shot: int
    metric: str
    experiment: str | None = None
    draws: int | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    weights: frozenset[str] = frozenset()
    counts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    outside: str | None = None


@dataclass(frozen=True)
class Claim:
    """One published number as it was printed, in percent, and what it was obtained under.

    std      over the draws of the references, None where none was printed
    variant  what tells apart rows that are otherwise the same, such as the steps of an ablation
    """

    claim: str
    method: str
    dataset: str
    k_shot: int
    variant: str
    object: str
    metric: str
    value: float
    std: float | None
    quality: str
    note: str
    settings: Settings

    @property
    def suspect(self) -> bool:
        """Whether the printed number is probably a misprint, which counts neither for nor against anybody."""
        return self.quality.startswith("SUSPECT")


def default_folder() -> Path:
    """``results/published`` of the checkout, or as the wheel brings it."""
    checkout = Path(__file__).parents[3] / "results" / "published"
    if checkout.is_dir():
        return checkout
    return Path(str(resources.files(import_module("winclip_bench.published"))))


def read_claims(folder: Path) -> list[Claim]:
    """All claims of a folder, in the order of its files and rows.

    Raises InputError for a file that is missing or cannot be read, a row that is no claim, or one without settings.
    """
    rules, counts, weights = _read_settings(folder)
    paths = sorted(folder.glob("*.csv"))
    if not paths:
        raise InputError(f"{folder} holds no claims; name a folder with .csv tables as results/published has them")
    claims = [
        _claim(row, f"{path}, line {line}", rules, counts, weights) for path in paths for line, row in _rows(path)
    ]
    seen: set[tuple[object, ...]] = set()
    for claim in claims:
        key = (claim.claim, claim.dataset, claim.k_shot, claim.variant, claim.object, claim.metric, claim.note)
        if key in seen:
            raise InputError(f"{folder} holds the claim {' · '.join(map(str, key[:6]))} twice; keep one")
        seen.add(key)
    return claims


def select(claims: Iterable[Claim], names: Iterable[str]) -> list[Claim]:
    """The claims of some sources; all where none is named. Raises InputError for a source that has none."""
    claims, wanted = list(claims), set(names)
    known = {claim.claim for claim in claims}
    if unknown := sorted(wanted - known):
        raise InputError(f"--claim {printable(unknown[0])} is unknown; there are {', '.join(sorted(known))}")
    return [claim for claim in claims if not wanted or claim.claim in wanted]


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and cells of every row; what a table leaves out because it is the same everywhere is filled in."""
    common = {"claim": path.stem, "method": "", "k_shot": "0", "variant": "", "object": "", "std": ""}
    common |= {"quality": "", "note": ""}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True, restkey="")
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}); restore it") from error
    for line, row in rows:
        if "" in row or None in row.values() or not {"dataset", "metric", "value"} <= row.keys():
            raise InputError(f"{path}, line {line}: the row does not fit the head of the table; correct it")
    return [(line, common | row) for line, row in rows]


def _claim(
    row: Mapping[str, str],
    where: str,
    rules: list[dict[str, Any]],
    counts: Mapping[str, Any],
    weights: Mapping[str, list[str]],
) -> Claim:
    try:
        value, std = float(row["value"]), float(row["std"]) if row["std"] else None
        k_shot = int(row["k_shot"])
    except ValueError as error:
        raise InputError(f"{where}: value, std or k_shot is not a number; correct it") from error
    if not (math.isfinite(value) and (std is None or 0 <= std < math.inf) and k_shot >= 0):
        raise InputError(f"{where}: value, std and k_shot must be finite and the last two not negative; correct it")
    rule = next((rule for rule in rules if _applies(rule["rows"], row)), None)
    if rule is None:
        raise InputError(f"{where}: no entry of {SETTINGS} is about this row; add one")
    means = {key: row[key] for key in ("dataset", "object", "k_shot", "metric")} | rule.get("means", {})
    dataset, thing = str(means["dataset"]), str(means["object"]) or MEAN
    options, config = _required(rule.get("options", {}), rule.get("config", {}))
    settings = Settings(
        dataset=dataset,
        object=thing,
        k_shot=int(means["k_shot"]),
        metric=str(rule.get("metrics", {}).get(row["metric"], means["metric"])),
        experiment=rule.get("experiment"),
        draws=rule.get("draws"),
        options=options,
        config=config,
        weights=frozenset(weights[rule["weights"]]) if "weights" in rule else frozenset(),
        counts=rule.get("counts") or counts.get(dataset, {}),
        outside=rule.get("outside"),
    )
    texts = {key: row[key] for key in ("claim", "method", "dataset", "variant", "metric", "quality", "note")}
    return Claim(**texts, k_shot=k_shot, object=row["object"] or thing, value=value, std=std, settings=settings)


def _applies(wanted: Mapping[str, Any], row: Mapping[str, str]) -> bool:
    """Whether every cell that an entry names is what it names, or one of them."""
    return all(
        row.get(column) in [str(cell) for cell in (cells if isinstance(cells, list) else [cells])]
        for column, cells in wanted.items()
    )


def _required(names: Mapping[str, str], config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options by their content, with what the configuration sets otherwise within them, and what it sets elsewhere."""
    options = {group: dict(_option(group, name)) for group, name in names.items()}
    elsewhere = {}
    for dotted, value in config.items():
        group, _, key = dotted.partition(".")
        if group in options:
            options[group][key] = value
        else:
            elsewhere[dotted] = value
    return options, elsewhere


@cache
def _option(group: str, name: str) -> Mapping[str, Any]:
    """What ``conf/<group>/<name>.yaml`` says of its group; only its name where there is no such file yet.

    ``protocol.aupro`` is left out: it says which of a record's metrics to read, and every claim names its own.
    """
    file = resources.files("winclip_bench.conf") / group / f"{name}.yaml"
    content: Any = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    option = {"name": name}
    for default in content.get("defaults", []):  # a preset may begin as another one: `- paper@protocol`
        if isinstance(default, str) and default.endswith(f"@{group}"):
            option |= _option(group, default.removesuffix(f"@{group}"))
    option |= content.get(group, content)  # a preset of several groups has them as sections
    return {key: value for key, value in option.items() if key not in {"defaults", "aupro"}}


def _read_settings(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, list[str]]]:
    """The entries of the settings, the counts of whole datasets as records have them, and the known weights."""
    settings = _load(folder / SETTINGS, yaml.safe_load)
    rules, weights = settings.get("entries"), settings.get("weights")
    if not isinstance(rules, list) or not isinstance(weights, dict):
        raise InputError(f"{folder / SETTINGS} needs the list entries and the map weights; restore it")
    for number, rule in enumerate(rules, 1):
        where = f"{folder / SETTINGS}, entry {number}"
        if not isinstance(rule, dict) or not {"rows"} <= rule.keys() <= _RULE:
            raise InputError(f"{where} has other keys than rows and {', '.join(sorted(_RULE - {'rows'}))}; correct it")
        for key in ("rows", "means", "metrics", "options", "config", "counts"):
            if not isinstance(rule.get(key, {}), dict):
                raise InputError(f"{where}: {key} is not a map; correct it")
        if rule.get("weights", next(iter(weights), None)) not in weights:
            raise InputError(f"{where}: the weights {rule['weights']} are not among those listed; list their sha256")
    try:
        return rules, _whole(_load(folder / COUNTS, json.loads)), weights
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / COUNTS} is not as the counts are written; restore it") from error


def _load(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read ({printable(str(error))}); restore it") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a map; restore it")
    return content


def _whole(counts: Mapping[str, Any]) -> dict[str, Any]:
    """The counts of MVTec AD (by defect) and VisA (by label) in the shape of a record's."""
    mvtec = {
        category: {
            "train": found["train_good"],
            "test_good": found["test"]["good"],
            "test_anomalous": sum(found["test"].values()) - found["test"]["good"],
            "defects": found["test"],
        }
        for category, found in counts["mvtec"].items()
    }
    visa = {
        category: {
            "train": found["train_normal"],
            "test_good": found["test_normal"],
            "test_anomalous": found["test_anomaly"],
        }
        for category, found in counts["visa"].items()
    }
    return {"mvtec": mvtec, "visa": visa}
