"""One category: references, features, scores and maps, metrics, record."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from winclip_bench.clip.tiles import resize_mask
from winclip_bench.config import as_dict
from winclip_bench.data import (
    Category,
    Sample,
    check_category,
    check_mask_sizes,
    check_unchanged,
    prefetch,
    read_ground_truth,
    remarks,
)
from winclip_bench.errors import InputError
from winclip_bench.metrics import PIXEL_METRICS, Measured, pixel_metrics, sample_metrics
from winclip_bench.metrics.points import PixelPoint, pixel_points
from winclip_bench.pictures import Gallery, gallery
from winclip_bench.pipelines import PIPELINES
from winclip_bench.pipelines.shared import Evaluation, Reference, Scored, choose_references, image_files, timed
from winclip_bench.records import Record, Score

GroundTruthReader = Callable[[Sequence[Path], tuple[int, int]], NDArray[np.bool_]]


@dataclass(frozen=True)
class Result:
    """A record and the files that lie beside it; `encoded` images were not in the store.

    curve     points of the pixel curves; none where they are not defined
    pictures  None where none are asked for
    type_maps names of classes and, by image, the index of one at each pixel
    head      a trained head's file
    """

    record: Record
    scores: list[Score]
    maps: dict[str, NDArray[np.float32]] | None
    encoded: int
    curve: list[PixelPoint] = field(default_factory=list)
    pictures: Gallery | None = None
    type_maps: tuple[list[str], dict[str, NDArray[np.uint8]]] | None = None
    head: bytes | None = None


def evaluate(run: Evaluation, category: Category) -> Result:
    """Score every test image of a category and measure. Raises InputError naming what is wrong with it."""
    try:
        return _evaluate(run, category)
    finally:
        run.encoder.forget()


def _evaluate(run: Evaluation, category: Category) -> Result:
    check_category(category)
    config, protocol = run.config, run.config.protocol
    resized = check_mask_sizes(category.test, config.dataset.resize_masks)  # before anything is encoded in vain
    timing: dict[str, float] = {}
    references = choose_references(run, category)
    scored = PIPELINES[config.method.name](run, category, references, timing)
    _refuse_non_finite(category.test, scored)
    with timed(timing, "metrics"):
        samples = sample_metrics(np.array(scored.image_scores), np.array([sample.label for sample in category.test]))
        geometries = [run.encoder.geometry(image) for image in image_files(run, category.test)]
        sizes = [geometry.original_size for geometry in geometries]
        reader = partial(
            read_ground_truth,
            max_pixels=config.dataset.max_pixels,
            threshold=config.dataset.mask_threshold,
            resize=config.dataset.resize_masks,
        )
        masks = read_masks(
            category,
            scored.maps,
            sizes,
            reader,
            mask_resize=protocol.mask_resize.value,
            workers=config.runtime.workers,
        )
        for mask in (mask for sample in category.test if sample.label and masks for mask in sample.masks):
            check_unchanged(mask, run.digests.files[mask])
        pixels = measure_pixels(category, scored.maps, masks)
    with timed(timing, "pictures"):
        curve = [] if scored.maps is None or masks is None else pixel_points(scored.maps, masks)
        shown = _gallery(run, category, references, scored, sizes, masks)
    about_data, is_partial = remarks(run.dataset, category, run.class_names)

    return Result(
        record=Record(
            run_id=run.run_id,
            dataset=run.dataset,
            category=category.name,
            config=_config(run),
            metrics={**pixels.values, **samples.values, **scored.metrics.values},
            undefined={**pixels.undefined, **samples.undefined, **scored.metrics.undefined},
            warnings=[*about_data, *_warnings(category, pixels), *_mask_warnings(category, sizes, reader, resized)],
            counts={
                **_counts(category),
                **({"partial": True} if is_partial else {}),
                "tiles": sum(len(geometry.corners) for geometry in geometries),
                **pixels.counts,
            },
            references=[{"path": reference.path, "sha256": reference.sha256} for reference in references],
            timing=timing,
            provenance={**run.provenance, "category_digest": run.digests.categories[category.name]},
            typing=scored.typing,
            summary=scored.summary,
        ),
        scores=[
            Score(sample.key, sample.defect, sample.label, image_score, decided)
            for sample, image_score, decided in zip(
                category.test, scored.image_scores, scored.predicted or repeat(None, len(category.test)), strict=True
            )
        ],
        maps={sample.key: scored_map for sample, scored_map in zip(category.test, scored.maps, strict=True)}
        if config.save_maps and scored.maps is not None
        else None,
        encoded=scored.encoded,
        curve=curve,
        pictures=shown,
        type_maps=scored.type_maps,
        head=scored.head,
    )


def read_masks(
    category: Category,
    maps: Sequence[NDArray[np.float32]] | None,
    sizes: Sequence[tuple[int, int]],
    reader: GroundTruthReader,
    *,
    mask_resize: Literal["nearest", "nearest_floor", "bilinear"],
    workers: int,
) -> list[NDArray[np.bool_]] | None:
    """Masks of the test images at the size of the maps; None without maps and for a category without masks.

    sizes   (width, height) of the images as they are on disk
    reader  `data.read_ground_truth` with its settings
    """
    if maps is None or not category.has_masks:
        return None

    def load(case: tuple[Sample, NDArray[np.float32], tuple[int, int]]) -> NDArray[np.bool_]:
        sample, anomaly_map, size = case
        if not sample.label:
            return np.zeros(anomaly_map.shape, bool)
        return resize_mask(reader(sample.masks, size), anomaly_map.shape, mask_resize)

    cases = zip(category.test, maps, sizes, strict=True)
    return list(prefetch(cases, load, workers=workers, ahead=4 * workers))


def measure_pixels(
    category: Category, maps: Sequence[NDArray[np.float32]] | None, masks: Sequence[NDArray[np.bool_]] | None
) -> Measured:
    """Pixel metrics at the size of the maps; all undefined without maps and for a category without masks."""
    if maps is None or masks is None:
        reason = "the method and the protocol make no anomaly map" if maps is None else "the category has no masks"
        return Measured(dict.fromkeys(PIXEL_METRICS), dict.fromkeys(PIXEL_METRICS, reason))
    return pixel_metrics(maps, masks)


def _gallery(
    run: Evaluation,
    category: Category,
    references: Sequence[Reference],
    scored: Scored,
    sizes: Sequence[tuple[int, int]],
    masks: Sequence[NDArray[np.bool_]] | None,
) -> Gallery | None:
    """The pictures of a category, of a few of its images; None where none are asked for."""
    if run.config.pictures == 0:
        return None
    return gallery(
        [(sample, run.digests.files[sample.image]) for sample in category.test],
        scored.image_scores,
        sizes,
        scored.maps,
        masks,
        limit=run.config.pictures,
        references={reference.sha256: reference.image for reference in references},
    )


def _refuse_non_finite(samples: Sequence[Sample], scored: Scored) -> None:
    finite = np.isfinite(scored.image_scores)
    if scored.maps is not None:
        finite &= [np.isfinite(anomaly_map).all() for anomaly_map in scored.maps]
    for sample, sound in zip(samples, finite, strict=True):
        if not sound:
            raise InputError(
                f"the scores of {sample.image} are not finite; check that image, the weights and runtime.precision"
            )


def _counts(category: Category) -> dict[str, Any]:
    defects = sorted({sample.defect for sample in category.test})
    return {
        "train": len(category.train),
        "test": len(category.test),
        "test_good": sum(sample.label == 0 for sample in category.test),
        "test_anomalous": sum(sample.label == 1 for sample in category.test),
        "defects": {defect: sum(sample.defect == defect for sample in category.test) for defect in defects},
    }


def _config(run: Evaluation) -> dict[str, Any]:
    """The resolved configuration, with the names of all categories that the run is over, however it is split."""
    content = as_dict(run.config)
    del content["split_categories"]
    content["dataset"]["categories"] = sorted(run.class_names)
    return content


def _warnings(category: Category, pixels: Measured) -> list[str]:
    warnings = []
    anomalous = sum(sample.label for sample in category.test)
    if anomalous in (0, len(category.test)):
        kind, missing = ("normal", "anomalous") if anomalous == 0 else ("anomalous", "normal")
        warnings.append(
            f"all test images are {kind}, so metrics that compare them with {missing} ones are undefined; add some"
        )
    without_regions = anomalous - pixels.counts.get("images_with_regions", anomalous)
    if without_regions:
        warnings.append(
            f"{without_regions} anomalous test images have an empty mask; they count for image metrics, not for regions"
        )
    return warnings


def _mask_warnings(
    category: Category, sizes: Sequence[tuple[int, int]], reader: GroundTruthReader, resized: int
) -> list[str]:
    """What is odd about the masks without making a number impossible."""
    warnings = []
    if resized:
        warnings.append(f"{resized} anomalous test images have a mask of another size, which was resized to theirs")
    marked = 0
    for sample, size in zip(category.test, sizes, strict=True):
        if sample.masks and not sample.label:
            try:
                marked += bool(reader(sample.masks, size).any())
            except InputError:
                continue  # no number depends on it
    if marked:
        warnings.append(f"{marked} good test images have a mask that is not empty; they count as normal all over")
    if category.orphans:
        warnings.append(
            f"{len(category.orphans)} masks belong to no test image; `python -m winclip_bench.data check` names them"
        )
    return warnings
