"""The way from one protocol to another, one changed field a row: what each step moves, from records alone.

    python run.py experiment=protocol_gap
    python -m winclip_bench.report.gap [results_dir]

The steps are those of the experiment's sweep over `protocol`, read as data. A record belongs to a step by its content,
under whatever name it was computed, so that partial sweeps and records of other runs count; needs no torch.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from tabulate import tabulate

from winclip_bench.errors import printable
from winclip_bench.records import Record, read_all
from winclip_bench.report.tables import METRICS, MISSING

EXPERIMENT = "protocol_gap"
_NO_CONTENT = {"name", "aupro"}  # how a protocol is called, and how its records are read


@dataclass(frozen=True)
class Step:
    """A protocol with its prompts, and what it changes in the step before."""

    change: str
    protocol: Mapping[str, Any]
    prompts: Mapping[str, Any]

    def value(self, record: Record, metric: str) -> float | None:
        """A metric as the protocol reports it: which of its two AUPROs is a matter of the protocol."""
        if metric == "aupro" and self.protocol["aupro"] == "thresholds_200":
            metric = "aupro_200"
        return record.metrics.get(metric)


def read_steps(experiment: str = EXPERIMENT) -> list[Step]:
    """The protocols that an experiment of conf/experiment sweeps over, in its order."""
    sweep = _load(f"experiment/{experiment}")["hydra"]["sweeper"]["params"]["protocol"]
    steps: list[Step] = []
    for name in sweep.split(","):
        protocol, prompts = _compose(name.strip())
        found = Step(name.strip(), protocol, _load(f"prompts/{prompts}"))
        steps.append(Step(_change(steps[-1], found), protocol, found.prompts) if steps else found)
    return steps


def gap_tables(records: Iterable[Record], steps: Sequence[Step]) -> str:
    """Markdown: a table per setting (dataset, backbone, k, …) that has records, with a row per step.

    Cells are the mean over classes and seeds in percent, and in brackets its change against the row before, over the
    classes and seeds that both have.
    """
    settings: dict[str, list[Record]] = {}
    for record in records:
        settings.setdefault(_setting(record, steps), []).append(record)
    parts = []
    for setting in sorted(settings):
        rows, previous = [], None
        for step in steps:
            own = {_case(record): record for record in settings[setting] if _belongs(record, step)}
            changed = [_cell(metric, step, own, previous) for metric in METRICS]
            rows.append([printable(step.change).replace("|", r"\|"), str(len(own) or MISSING), *changed])
            previous = step, own
        if any(row[1] != MISSING for row in rows):
            align = ("left", *["right"] * (1 + len(METRICS)))
            head = ("step", "records", *METRICS)
            grid = tabulate(rows, head, tablefmt="pipe", disable_numparse=True, colalign=align)
            parts.append(f"## {_title(settings[setting][0])}\n\n{grid}\n")
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables of a results folder; 1 where it has no record of any step."""
    parser = argparse.ArgumentParser(prog="python -m winclip_bench.report.gap", description=__doc__.splitlines()[0])
    parser.add_argument("results_dir", nargs="?", type=Path, default=Path("results"))
    results_dir = parser.parse_args(arguments).results_dir
    records, broken = read_all(results_dir)
    for fault in broken:
        print(f"warning: {fault}", file=sys.stderr)
    tables = gap_tables(records, read_steps())
    if not tables:
        print(f"{results_dir} has no record of any step; run `python run.py experiment={EXPERIMENT}`", file=sys.stderr)
        return 1
    print(tables, end="")
    return 0


@cache
def _load(name: str) -> dict[str, Any]:
    text = resources.files("winclip_bench.conf").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    assert isinstance(content, dict), name
    return content


def _compose(name: str) -> tuple[dict[str, Any], str]:
    """A protocol and the name of its prompts, with what its file takes from another one and changes."""
    content = _load(f"protocol/{name}")
    protocol: dict[str, Any] = {}
    prompts = next(entry["prompts"] for entry in _load("config")["defaults"] if "prompts" in entry)
    for entry in content.get("defaults", []):
        if isinstance(entry, str):
            protocol, prompts = _compose(entry.removeprefix("/protocol/"))
        else:
            prompts = entry.get("override /prompts", prompts)
    return {**protocol, **content.get("protocol", content)}, prompts


def _change(before: Step, after: Step) -> str:
    """The fields that differ, as `field: old → new`."""
    names = [("prompts", before.prompts["name"], after.prompts["name"])]
    names += [
        (field, before.protocol[field], value)
        for field, value in after.protocol.items()
        if field not in {"name", "class_words"}
    ]
    changes = [f"{field}: {old} → {new}" for field, old, new in names if old != new]
    if before.protocol["class_words"] != after.protocol["class_words"]:
        changes.append("class_words")
    return ", ".join(changes)


def _belongs(record: Record, step: Step) -> bool:
    """Whether a record was computed under the protocol and the prompts of a step."""
    stated = {key: value for key, value in record.config["protocol"].items() if key in step.protocol}
    return _content(stated, record.category) == _content(step.protocol, record.category) and all(
        record.config["prompts"].get(key) == value for key, value in step.prompts.items() if key != "name"
    )


def _content(protocol: Mapping[str, Any], category: str) -> dict[str, Any]:
    """What the numbers of a category depend on; of the words for classes, the one for it."""
    content = {key: value for key, value in protocol.items() if key not in _NO_CONTENT}
    words = content.pop("class_words", {})
    return {**content, "words": words.get(category) if content.get("class_name") == "words" else None}


def _setting(record: Record, steps: Sequence[Step]) -> str:
    """What records of one table have in common: all that the numbers depend on except prompts, seed and those fields of
    the protocol that the steps are about."""
    config = record.config
    about = set().union(*(step.protocol for step in steps))
    common = {
        "title": _title(record),
        "dataset": [record.provenance.get("dataset_digest"), config["dataset"].get("class_names")],
        "weights": record.provenance.get("weights_sha256"),
        "method": config["method"],
        "protocol": {key: value for key, value in config["protocol"].items() if key not in about},
        "references": (config.get("references") or {}).get("file"),
    }
    return json.dumps(common, sort_keys=True)


def _title(record: Record) -> str:
    config = record.config
    scales = ", ".join(map(str, config["scales"])) or MISSING
    return " · ".join(
        [
            record.dataset,
            config["method"]["name"],
            config["backbone"]["name"],
            f"k = {config['k_shot']}",
            f"scales {scales}",
            config["runtime"]["precision"],
        ]
    )


def _case(record: Record) -> tuple[str, int | None]:
    """Category and, where references were drawn, the seed."""
    return record.category, record.config["seed"] if record.config["k_shot"] else None


Cases = Mapping[tuple[str, int | None], Record]


def _cell(metric: str, step: Step, own: Cases, previous: tuple[Step, Cases] | None) -> str:
    """The mean and, where the row before has some of the same cases, the change of their mean."""
    values = {case: value for case, record in own.items() if (value := step.value(record, metric)) is not None}
    if not values:
        return MISSING
    text = f"{100 * fmean(values.values()):.1f}"
    if previous is None:
        return text
    earlier, records = previous
    changes = [
        value - before
        for case, value in values.items()
        if case in records and (before := earlier.value(records[case], metric)) is not None
    ]
    return f"{text} ({100 * fmean(changes):+.1f})" if changes else text


if __name__ == "__main__":
    sys.exit(main())
