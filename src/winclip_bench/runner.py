"""One run: every category of a dataset through one backbone, method and protocol, to records and a table.

With `evaluation`, the only place that knows all the other modules. A category that fails does not hinder the next,
and what is finished stays finished.
"""

import sys
import traceback
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from winclip_bench import records
from winclip_bench.clip.backbone import Backbone, Weights, find_weights, load_backbone
from winclip_bench.config import ClassName, Config, Device, Layout, TrackerName
from winclip_bench.data import Category, Dataset, content_digests, open_dataset
from winclip_bench.data.demo import write_demo
from winclip_bench.errors import InputError
from winclip_bench.evaluation import Evaluation, Reference, evaluate, listed_references
from winclip_bench.provenance import provenance
from winclip_bench.report.tables import table, to_markdown, write_overview, write_tables
from winclip_bench.tracking import track


def run(config: Config) -> int:
    """Run one configuration: 0 if every category finished and has both normal and anomalous test images, else 1.

    Raises InputError for what concerns the whole run.
    """
    results_dir = Path(config.results_dir)
    records.check_writable(results_dir)
    dataset, selected = _open(config)
    device = _device(config.runtime.device)
    weights = _weights(config.backbone.architecture, config.backbone.pretrained, config.backbone.init_seed)
    digests = content_digests(dataset, Path(config.runtime.cache_dir), config.runtime.workers)
    class_names = {category.name: _class_name(category.name, config) for category in dataset.categories}
    listed = _listed(config, selected)
    run_id = records.run_id(_identity(config, digests.dataset, weights.sha256, class_names, listed))
    evaluation = Evaluation(
        config=config,
        run_id=run_id,
        dataset=dataset.name,
        digests=digests,
        class_names=class_names,
        backbone=lambda: _backbone(weights, device),
        provenance={
            **provenance(device),
            "weights_sha256": weights.sha256,
            "dataset_digest": digests.dataset,
        },
        listed=listed,
    )

    _say(f"{dataset.name}: {len(selected)} categories, k_shot={config.k_shot}, run {run_id}")
    finished: list[records.Record] = []
    reasons: dict[str, str] = {}
    new = False
    for category in selected:
        record = None if config.force else records.finished(results_dir, dataset.name, run_id, category.name)
        if record is None:
            record = _try(evaluation, category, results_dir, reasons)
            new = new or record is not None
        else:
            _say(f"{category.name}: finished before")
        if record is not None:
            finished.append(record)
            for warning in record.warnings:
                _say(f"warning: {category.name}: {warning}")
    if finished:
        expected = [category.name for category in selected]
        content = table(finished, expected, reasons)
        print(to_markdown(content))
        for path in [*write_tables(results_dir, finished, expected, reasons), write_overview(results_dir)[0]]:
            print(path)
        if config.tracker.name is TrackerName.wandb and new:
            place = track(finished, content, results_dir, mode=config.tracker.mode.value)
            if place:
                print(place)
    if reasons:
        _say(f"{len(finished)} of {len(selected)} categories finished; without: {', '.join(reasons)}")
    return int(bool(reasons) or not all(map(one_of_each, finished)))


def _try(
    evaluation: Evaluation, category: Category, results_dir: Path, reasons: dict[str, str]
) -> records.Record | None:
    """Evaluate and record a category; where that fails, say why and keep the reason."""
    try:
        result = evaluate(evaluation, category)
        records.write(results_dir, result.record, result.scores, result.maps)
    except InputError as error:
        reasons[category.name] = str(error)
    except Exception as error:  # a fault of ours in one category must not cost the others
        traceback.print_exc()
        reasons[category.name] = f"{type(error).__name__}: {error}"
    else:
        record = result.record
        timing = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in record.timing.items())
        _say(f"{category.name}: {record.counts['test']} test images ({timing})")
        return record
    _say(f"error: {category.name}: {reasons[category.name]}")
    return None


def one_of_each(record: records.Record) -> bool:
    """Whether the test images were both normal and anomalous ones."""
    return bool(record.counts["test_good"]) and bool(record.counts["test_anomalous"])


def _open(config: Config) -> tuple[Dataset, tuple[Category, ...]]:
    """The whole dataset, whose content is part of the run's identity, and the categories to run."""
    settings = config.dataset
    if settings.layout is Layout.demo:
        layout, root = "mvtec", write_demo(Path(config.runtime.cache_dir))
    elif settings.root is None:
        raise InputError("dataset.root is not set; set it to the folder that holds the dataset")
    else:
        layout, root = settings.layout.value, Path(settings.root)
    dataset = open_dataset(layout, root, settings.name)
    if not settings.categories:
        return dataset, dataset.categories
    return dataset, open_dataset(layout, root, settings.name, settings.categories).categories


def _class_name(category: str, config: Config) -> str:
    """The words that stand for a category in its prompts."""
    if category in config.dataset.class_names:
        return config.dataset.class_names[category]
    if config.protocol.class_name is ClassName.raw:
        return category
    return config.protocol.class_words.get(category, category.replace("_", " "))


def _identity(
    config: Config,
    dataset_digest: str,
    weights_sha256: str,
    class_names: dict[str, str],
    listed: list[Reference] | None,
) -> dict[str, Any]:
    """What the numbers depend on, by content; no path, name of a preset, device, batch size or tracker."""
    return {
        "dataset": {"name": config.dataset.name, "content": dataset_digest, "class_names": class_names},
        "backbone": {"architecture": config.backbone.architecture, "weights": weights_sha256},
        "method": asdict(config.method),
        "prompts": _without_name(asdict(config.prompts)),
        "protocol": {
            key: value for key, value in _without_name(asdict(config.protocol)).items() if key != "class_words"
        },
        "scales": config.scales,
        "k_shot": config.k_shot,
        "seed": config.seed if config.k_shot and listed is None else None,
        "references": None if listed is None else [reference.sha256 for reference in listed],
        "precision": config.runtime.precision,
    }


def _without_name(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "name"}


def _listed(config: Config, selected: tuple[Category, ...]) -> list[Reference] | None:
    """The references that a file names; None where they are drawn."""
    if config.references.file is None:
        return None
    if len(selected) != 1:
        raise InputError("references.file names the references of one category; choose it with dataset.categories=[…]")
    return listed_references(Path(config.references.file), config.k_shot, selected[0])


def _device(choice: Device) -> torch.device:
    if choice is Device.cuda and not torch.cuda.is_available():
        raise InputError("runtime.device=cuda, but torch sees no CUDA device; use runtime.device=auto")
    if choice is Device.auto:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(choice.value)


@lru_cache(maxsize=4)
def _weights(architecture: str, pretrained: str | None, init_seed: int) -> Weights:
    """Jobs of one sweep share what they load."""
    return find_weights(architecture, pretrained, init_seed)


@lru_cache(maxsize=1)
def _backbone(weights: Weights, device: torch.device) -> Backbone:
    return load_backbone(weights, device)


def _say(line: str) -> None:
    tqdm.write(records.printable(line), file=sys.stderr)
