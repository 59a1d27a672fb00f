"""One category: references, features, scores and maps, metrics, record."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from winclip_bench.clip.tiles import resize_mask
from winclip_bench.config import as_dict
from winclip_bench.data import Category, Sample, check_category, prefetch, read_mask
from winclip_bench.errors import InputError
from winclip_bench.metrics import PIXEL_METRICS, Measured, pixel_metrics, sample_metrics
from winclip_bench.pipelines import PIPELINES
from winclip_bench.pipelines.shared import Evaluation, Scored, choose_references, image_files, timed
from winclip_bench.records import Record, Score


@dataclass(frozen=True)
class Result:
    """A record and the files that lie beside it; `encoded` images were not in the store."""

    record: Record
    scores: list[Score]
    maps: dict[str, NDArray[np.float32]] | None
    encoded: int


def evaluate(run: Evaluation, category: Category) -> Result:
    """Score every test image of a category and measure. Raises InputError naming what is wrong with it."""
    try:
        return _evaluate(run, category)
    finally:
        run.encoder.forget()


def _evaluate(run: Evaluation, category: Category) -> Result:
    check_category(category)
    config, protocol = run.config, run.config.protocol
    timing: dict[str, float] = {}
    references = choose_references(run, category)
    scored = PIPELINES[config.method.name](run, category, references, timing)
    _refuse_non_finite(category.test, scored)
    with timed(timing, "metrics"):
        samples = sample_metrics(np.array(scored.image_scores), np.array([sample.label for sample in category.test]))
        geometries = [run.encoder.geometry(image) for image in image_files(run, category.test)]
        sizes = [geometry.original_size for geometry in geometries]
        pixels = measure_pixels(category, scored.maps, sizes, protocol.mask_resize.value, config.runtime.workers)

    return Result(
        record=Record(
            run_id=run.run_id,
            dataset=run.dataset,
            category=category.name,
            config=_config(run),
            metrics={**pixels.values, **samples.values},
            undefined={**pixels.undefined, **samples.undefined},
            warnings=_warnings(category, pixels),
            counts={
                **_counts(category),
                "tiles": sum(len(geometry.corners) for geometry in geometries),
                **pixels.counts,
            },
            references=[{"path": reference.path, "sha256": reference.sha256} for reference in references],
            timing=timing,
            provenance={**run.provenance, "category_digest": run.digests.categories[category.name]},
        ),
        scores=[
            Score(sample.key, sample.defect, sample.label, image_score)
            for sample, image_score in zip(category.test, scored.image_scores, strict=True)
        ],
        maps={sample.key: scored_map for sample, scored_map in zip(category.test, scored.maps, strict=True)}
        if config.save_maps and scored.maps is not None
        else None,
        encoded=scored.encoded,
    )


def measure_pixels(
    category: Category,
    maps: Sequence[NDArray[np.float32]] | None,
    sizes: Sequence[tuple[int, int]],
    mask_resize: Literal["nearest", "bilinear"],
    workers: int,
) -> Measured:
    """Pixel metrics at the size of the maps; all undefined without maps and for a category without masks.

    sizes   (width, height) of the images as they are on disk, which their masks must have
    """
    if maps is None or not category.has_masks:
        reason = "the method has no anomaly map" if maps is None else "the category has no masks"
        return Measured(dict.fromkeys(PIXEL_METRICS), dict.fromkeys(PIXEL_METRICS, reason))

    def load(case: tuple[Sample, NDArray[np.float32], tuple[int, int]]) -> NDArray[np.bool_]:
        sample, anomaly_map, size = case
        if sample.mask is None:
            return np.zeros(anomaly_map.shape, bool)
        return resize_mask(read_mask(sample.mask, size), anomaly_map.shape, mask_resize)

    cases = zip(category.test, maps, sizes, strict=True)
    return pixel_metrics(maps, list(prefetch(cases, load, workers=workers, ahead=4 * workers)))


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
    """The resolved configuration, with the names of all categories that the run is over."""
    content = as_dict(run.config)
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
