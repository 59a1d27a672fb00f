"""One run: every category of a dataset through one backbone, method and protocol, to records and a table.

With `evaluation`, the only place that knows all the other modules. A category that fails does not hinder the next,
and what is finished stays finished.
"""

import sys
import traceback
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch

from winclip_bench import pictures, records
from winclip_bench.clip.backbone import Backbone, Weights, find_weights, load_backbone
from winclip_bench.comparisons import Comparisons
from winclip_bench.config import ClassName, Config, Device, Method, Pixels, Precision, ReferenceDraw, as_dict
from winclip_bench.data import Category, Dataset, Digests, content_digests, find_root, open_dataset
from winclip_bench.encoding import Encoder, Preprocessing
from winclip_bench.errors import InputError, RunError
from winclip_bench.evaluation import Result, evaluate
from winclip_bench.jobs import Job, job_key
from winclip_bench.pipelines.defect_types import curated_set
from winclip_bench.pipelines.shared import Evaluation, Reference, listed_references
from winclip_bench.progress import Progress
from winclip_bench.provenance import provenance
from winclip_bench.reporting import report_run, report_shared, say

Reports = Literal["all", "own", "none"]


@dataclass
class _Progress:
    """What has come of the categories so far: records, reasons for failures by name, and whether anything is new."""

    finished: list[records.Record] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    new: bool = False


def run(config: Config, *, reports: Reports = "all", command: str | None = None) -> int:
    """Run one configuration: 0 if every category finished and has both normal and anomalous test images, else 1.

    reports  what is left to a sweep that the run is part of: what is over all runs (``own``), or the run's own table
             as well, where the sweep splits it by category (``none``)
    command  that runs it again, where it is no part of a sweep

    Raises InputError for what concerns the whole run.
    """
    results_dir = Path(config.results_dir)
    records.check_writable(results_dir)
    records.safe_name(config.dataset.name, "dataset.name")
    with Job(results_dir, job_key(as_dict(config)), command) as job:
        evaluation, selected = prepare(config)
        names = [category.name for category in selected]
        job.over(evaluation.dataset, evaluation.run_id, names)
        say(f"{evaluation.dataset}: {len(selected)} categories, k_shot={config.k_shot}, run {evaluation.run_id}")
        progress = _Progress()
        with Progress({category.name: len(category.test) + config.k_shot for category in selected}) as display:
            evaluation = replace(evaluation, progress=display.images)
            for category in selected:
                display.begin(category.name)
                _advance(progress, evaluation, category, results_dir)
                if category.name in progress.reasons:
                    job.failed(category.name, progress.reasons[category.name])
                display.end(category.name)
        _look_again(progress, evaluation, results_dir, job)
        if reports != "none":
            tracker = config.tracker if progress.new else None
            place = (results_dir, evaluation.dataset, evaluation.run_id)
            if report_run(*place, names, progress.reasons, tracker) and reports == "all":
                report_shared(results_dir, {evaluation.run_id})
        if progress.reasons:
            missing = ", ".join(progress.reasons)
            say(f"{len(progress.finished)} of {len(names)} categories finished; without: {missing}")
    return int(bool(progress.reasons) or not all(map(one_of_each, progress.finished)))


def prepare(config: Config) -> tuple[Evaluation, tuple[Category, ...]]:
    """Everything that the categories of a run share, and the categories to run; no image has been decoded yet."""
    dataset, selected = _open(config)
    device = _device(config.runtime.device)
    weights = _weights(config.backbone.architecture, config.backbone.pretrained, config.backbone.init_seed)
    if config.method.name is Method.linear_head and config.protocol.pixels is Pixels.raw:
        weights = replace(weights, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    digests = content_digests(dataset, Path(config.runtime.cache_dir), config.runtime.workers)
    class_names = {category.name: _class_name(category.name, config) for category in dataset.categories}
    for name in config.dataset.class_names.keys() - class_names.keys():
        say(f"warning: dataset.class_names.{name} names no category of {dataset.name}")
    listed = _listed(config, dataset, selected, digests)
    encoder = _encoder(
        weights,
        device,
        _preprocessing(config),
        config.runtime.precision,
        config.runtime.cache_dir,
        max_pixels=config.dataset.max_pixels,
    )
    evaluation = Evaluation(
        config=config,
        run_id=records.run_id(_identity(config, digests.dataset, weights.sha256, class_names, listed)),
        dataset=dataset.name,
        digests=digests,
        class_names=class_names,
        encoder=encoder,
        comparisons=_comparisons(encoder),
        provenance={
            **provenance(device),
            "weights_sha256": weights.sha256,
            "dataset_digest": digests.dataset,
        },
        listed=listed,
    )
    return evaluation, selected


def _advance(progress: _Progress, evaluation: Evaluation, category: Category, results_dir: Path) -> None:
    """Evaluate and record one category unless it is finished; where that fails, keep the reason and go on."""
    name = category.name
    try:
        record = None if evaluation.config.force else _finished(evaluation, name, results_dir)
        if record is None:
            result = evaluate(evaluation, category)
            _write_pictures(result, results_dir)
            records.write(
                results_dir,
                result.record,
                result.scores,
                result.maps,
                curve=result.curve,
                type_maps=result.type_maps,
                head=result.head,
            )
            record, progress.new = result.record, True
            say(_summary(result))
        else:
            say(f"{name}: finished before")
    except RunError:
        raise
    except InputError as error:
        progress.reasons[name] = str(error)
    except Exception as error:  # a fault of ours in one category must not cost the others
        traceback.print_exc()
        progress.reasons[name] = f"{type(error).__name__}: {error}"
    else:
        progress.finished.append(record)
        for warning in record.warnings:
            say(f"warning: {name}: {warning}")
        return
    say(f"error: {name}: {progress.reasons[name]}")


def _look_again(progress: _Progress, evaluation: Evaluation, results_dir: Path, job: Job) -> None:
    """Count as failed what has been recorded and is gone: somebody deletes results while they are made."""
    for record in [*progress.finished]:
        if not records.record_path(results_dir, record.dataset, record.run_id, record.category).exists():
            progress.finished.remove(record)
            progress.reasons[record.category] = f"its record has gone from {results_dir}; run the same command again"
            job.failed(record.category, progress.reasons[record.category])
            say(f"error: {record.category}: {progress.reasons[record.category]}")


def _finished(evaluation: Evaluation, category: str, results_dir: Path) -> records.Record | None:
    """The record of a category, if there is one and, where they are asked for and the method makes any, the maps, and
    its pictures if it had."""
    config, run_id = evaluation.config, evaluation.run_id
    record = records.finished(results_dir, evaluation.dataset, run_id, category)
    if record is None:
        return None
    wants_maps = config.save_maps and config.method.name not in _WITHOUT_MAPS
    lacks_maps = wants_maps and not records.maps_path(results_dir, run_id, category).exists()
    had_pictures = config.pictures and record.config.get("pictures")
    lacks_pictures = had_pictures and not pictures.index_path(results_dir, run_id, category).exists()
    return None if lacks_maps or lacks_pictures else record


def _write_pictures(result: Result, results_dir: Path) -> None:
    """Pictures are worth a warning where they cannot be had, never a category."""
    if result.pictures is not None:
        try:
            pictures.write(results_dir, result.record.run_id, result.record.category, result.pictures)
        except InputError as error:
            say(f"warning: {result.record.category}: without pictures: {error}")


def _summary(result: Result) -> str:
    record = result.record
    timing = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in record.timing.items())
    return f"{record.category}: {record.counts['test']} test images, {result.encoded} images encoded ({timing})"


def one_of_each(record: records.Record) -> bool:
    """Whether the test images were both normal and anomalous ones."""
    return bool(record.counts["test_good"]) and bool(record.counts["test_anomalous"])


def _open(config: Config) -> tuple[Dataset, tuple[Category, ...]]:
    """The whole dataset, whose content is part of the run's identity, and the categories to run."""
    settings = config.dataset
    layout, root = find_root(settings.layout.value, settings.root, Path(config.runtime.cache_dir))
    dataset = open_dataset(layout, root, settings.name)
    _check_encoding(dataset)
    if not settings.categories:
        return dataset, dataset.categories
    return dataset, open_dataset(layout, root, settings.name, settings.categories).categories


def _check_encoding(dataset: Dataset) -> None:
    """Raise InputError where the locale would have names read as other letters, in prompts, digests and records."""
    encoding = sys.getfilesystemencoding()
    keys = (sample.key for category in dataset.categories for sample in (*category.train, *category.test))
    names = chain((category.name for category in dataset.categories), keys)
    if encoding != "utf-8" and (odd := next((name for name in names if not name.isascii()), None)):
        raise InputError(f"{dataset.root}: {odd!a} is read as {encoding}, as this locale has it; set PYTHONUTF8=1")


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
    listed: dict[str, list[Reference]] | None,
) -> dict[str, Any]:
    """What the numbers depend on, by content; no path, name of a preset, device, batch size or tracker."""
    threshold = config.dataset.mask_threshold
    learns = config.method.name is Method.linear_head
    reading = {} if threshold is None else {"mask_threshold": threshold}  # other settings admit data, or refuse them
    return {
        "dataset": {"name": config.dataset.name, "content": dataset_digest, "class_names": class_names, **reading},
        "backbone": {"architecture": config.backbone.architecture, "weights": weights_sha256},
        "method": _method_identity(config),
        **({} if config.stage is None else {"stage": config.stage}),
        "prompts": _without_name(asdict(config.prompts)),
        "protocol": {
            key: value
            for key, value in _without_name(asdict(config.protocol)).items()
            # Words are in class_names, the AUPRO is a way to read the record, and the others are one method's.
            if key not in {"class_words", "aupro", *(set() if learns else {"pixels", "training"})}
        },
        "scales": config.scales,
        "k_shot": config.k_shot,
        "seed": config.seed if _seeded(config, listed is not None) else None,
        "references": None
        if listed is None
        else {name: [reference.sha256 for reference in references] for name, references in listed.items()},
        "precision": config.runtime.precision,
    }


def _method_identity(config: Config) -> dict[str, Any]:
    """The settings that the method reads; a curated prompt set by its content."""
    settings = {key: value for key, value in asdict(config.method).items() if key in _READ[config.method.name]}
    if settings.get("defect_prompts") is not None:
        settings["defect_prompts"] = _without_name(asdict(curated_set(settings["defect_prompts"])))
    return settings


_WITHOUT_MAPS = {Method.prototypes, Method.linear_head}
_WINCLIP_READS = {"name", "aggregation", "image_term", "text_score"}
_DECIDING = {"threshold_rule", "threshold", "false_alarm_rate"}
_READ = {  # the settings of conf/method that a method's numbers depend on
    Method.winclip: _WINCLIP_READS,
    Method.defect_types: _WINCLIP_READS | _DECIDING | {"first_stage", "defect_prompts"},
    Method.prototypes: {"name"} | _DECIDING,
    Method.linear_head: {"name"} | _DECIDING,
}


def _seeded(config: Config, listed: bool) -> bool:
    """Whether anything depends on the seed: a draw of references, or damaged copies and first weights."""
    if config.method.name in (Method.prototypes, Method.linear_head):
        return True
    return config.k_shot > 0 and not listed and config.protocol.references is not ReferenceDraw.first


def _without_name(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "name"}


def _listed(
    config: Config, dataset: Dataset, selected: tuple[Category, ...], digests: Digests
) -> dict[str, list[Reference]] | None:
    """The references that a file names, by category; None where they are drawn."""
    if config.references.file is None:
        return None
    return listed_references(Path(config.references.file), config.k_shot, dataset, selected, digests)


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
def _backbone(weights: Weights, device: torch.device, precision: Precision) -> Backbone:
    return load_backbone(weights, device, torch.float32 if precision is Precision.fp32 else torch.bfloat16)


@lru_cache(maxsize=4)
def _encoder(
    weights: Weights,
    device: torch.device,
    preprocessing: Preprocessing,
    precision: Precision,
    cache_dir: str,
    *,
    max_pixels: int,
) -> Encoder:
    def backbone() -> Backbone:
        return _backbone(weights, device, precision)

    return Encoder(backbone, weights, preprocessing, precision.value, Path(cache_dir), max_pixels=max_pixels)


@lru_cache(maxsize=1)
def _comparisons(encoder: Encoder) -> Comparisons:
    return Comparisons(encoder)


def _preprocessing(config: Config) -> Preprocessing:
    protocol = config.protocol
    return Preprocessing(protocol.non_square.value, protocol.tile_stride, protocol.resize.value)
