"""One category: references, features, scores and maps, metrics, record."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from winclip_bench.clip.prompts import compose
from winclip_bench.clip.tiles import resize_mask, stitch
from winclip_bench.clip.windows import incidence
from winclip_bench.comparisons import Comparisons
from winclip_bench.config import Config, PatchFeatures, ReferenceDraw, as_dict
from winclip_bench.data import (
    UNREADABLE,
    Category,
    Digests,
    Sample,
    check_category,
    draw_references,
    file_sha256,
    prefetch,
    read_mask,
    read_reference_file,
)
from winclip_bench.encoding import Encoder, ImageFile, windows_kind
from winclip_bench.errors import InputError
from winclip_bench.features import Geometry
from winclip_bench.methods import winclip
from winclip_bench.metrics import PIXEL_METRICS, Measured, pixel_metrics, sample_metrics
from winclip_bench.records import Record, Score


@dataclass(frozen=True)
class Reference:
    """A reference image: its path relative to the category where it lies in it, and its digest."""

    image: Path
    path: str
    sha256: str


@dataclass(frozen=True)
class Evaluation:
    """What is the same for all categories of a run.

    listed     the references where a file names them, instead of a draw
    """

    config: Config
    run_id: str
    dataset: str
    digests: Digests
    class_names: Mapping[str, str]
    encoder: Encoder
    comparisons: Comparisons
    provenance: Mapping[str, Any]
    listed: list[Reference] | None = None


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
    gallery = [ImageFile(reference.image, reference.sha256) for reference in references]
    images = [ImageFile(sample.image, run.digests.files[sample.image]) for sample in category.test]

    with _timed(timing, "encode"):
        text_prototypes = encode_text(run.encoder, run.class_names[category.name], config)
        encoded = run.encoder.images(
            [*gallery, *images],
            config.scales,
            batch_size=config.runtime.batch_size,
            workers=config.runtime.workers,
            label=category.name,
        )
    with _timed(timing, "score"):
        geometries = [run.encoder.geometry(image) for image in images]
        grid = run.encoder.grid(images[0])
        scores = score_tiles(run, images, gallery, text_prototypes, grid)
        image_scores, maps = join_tiles(scores, geometries, grid, run.encoder.image_size)
        _refuse_non_finite(category.test, image_scores, maps)
    with _timed(timing, "metrics"):
        samples = sample_metrics(np.array(image_scores), np.array([sample.label for sample in category.test]))
        sizes = [geometry.original_size for geometry in geometries]
        pixels = measure_pixels(category, maps, sizes, protocol.mask_resize.value, config.runtime.workers)

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
            for sample, image_score in zip(category.test, image_scores, strict=True)
        ],
        maps={sample.key: scored_map for sample, scored_map in zip(category.test, maps, strict=True)}
        if config.save_maps
        else None,
        encoded=encoded,
    )


def choose_references(run: Evaluation, category: Category) -> list[Reference]:
    """The k reference images of a category, drawn or as `references.file` lists them.

    Raises InputError where there are too few, or where one has the content of a test image.
    """
    config = run.config
    if config.k_shot == 0:
        return []
    if run.listed is not None:
        references = run.listed
    else:
        drawn = draw_references(
            category.train,
            config.k_shot,
            config.seed,
            category.name,
            replacement=config.protocol.references is ReferenceDraw.with_replacement,
        )
        references = [Reference(sample.image, sample.key, run.digests.files[sample.image]) for sample in drawn]

    test_images = {run.digests.files[sample.image]: sample.key for sample in category.test}
    for reference in references:
        if reference.sha256 in test_images and reference.sha256 != UNREADABLE:
            raise InputError(
                f"the reference {reference.path} has the same content as the test image "
                f"{test_images[reference.sha256]}; take one of them out"
            )
    return references


def listed_references(file: Path, k: int, category: Category) -> list[Reference]:
    """The first k images that a reference file names. Raises InputError where it names fewer."""
    images = list(dict.fromkeys(image.resolve() for image in read_reference_file(file, category)))
    if not 0 < k <= len(images):
        raise InputError(
            f"references.file={file} names {len(images)} images; set k_shot={k} to one of 1 to {len(images)}"
        )
    keys = {sample.image.resolve(): sample.key for sample in category.train}
    return [Reference(image, keys.get(image, image.as_posix()), file_sha256(image)) for image in images[:k]]


def encode_text(encoder: Encoder, class_name: str, config: Config) -> Tensor:
    """The two text prototypes [2, E] of a class, normal first."""
    normal, anomalous = (
        compose(class_name, states, config.prompts.templates)
        for states in (config.prompts.normal_states, config.prompts.anomalous_states)
    )
    embeddings = encoder.prompts(normal + anomalous)
    return winclip.prototypes(
        embeddings[: len(normal)], embeddings[len(normal) :], config.protocol.text_prototype.value
    )


@torch.inference_mode()
def score_tiles(
    run: Evaluation,
    images: Sequence[ImageFile],
    gallery: Sequence[ImageFile],
    text_prototypes: Tensor,
    grid: int,
) -> winclip.Scores:
    """Scores of all tiles of some images, in float32 on the CPU, whatever device has encoded them."""
    config = run.config
    text = {
        kind: run.comparisons.to_text(images, kind, text_prototypes, config.protocol.temperature)
        for kind in ("image", *map(windows_kind, config.scales))
    }
    similarity = None
    if gallery:
        norm = config.protocol.patch_features is PatchFeatures.after_ln_post
        similarity = winclip.Similarity(
            run.comparisons.to_nearest(images, gallery, "patches", norm),
            {side: run.comparisons.to_nearest(images, gallery, windows_kind(side)) for side in config.scales},
        )
    return winclip.score(
        text["image"],
        {side: text[windows_kind(side)] for side in config.scales},
        {side: incidence(grid, side) for side in config.scales},
        grid=grid,
        similarity=similarity,
        combination=config.protocol.map_combination.value,
    )


def join_tiles(
    scores: winclip.Scores, geometries: Sequence[Geometry], grid: int, side: int
) -> tuple[list[float], list[NDArray[np.float32]]]:
    """Image scores and anomaly maps [H, W] of images from the scores of their tiles, one after the other."""
    image_scores, maps, start = [], [], 0
    for geometry in geometries:
        tiles = slice(start, start + len(geometry.corners))
        start = tiles.stop
        largest = None if scores.association_max is None else scores.association_max[tiles]
        image_scores.append(float(winclip.image_score(scores.text[tiles], largest)))
        upsampled = winclip.upsample(scores.maps[tiles], grid, side)
        maps.append(stitch(upsampled, geometry.corners, geometry.size).numpy())
    return image_scores, maps


def measure_pixels(
    category: Category,
    maps: Sequence[NDArray[np.float32]],
    sizes: Sequence[tuple[int, int]],
    mask_resize: Literal["nearest", "bilinear"],
    workers: int,
) -> Measured:
    """Pixel metrics at the size of the maps; all undefined for a category without masks.

    sizes   (width, height) of the images as they are on disk, which their masks must have
    """
    if not category.has_masks:
        return Measured(dict.fromkeys(PIXEL_METRICS), dict.fromkeys(PIXEL_METRICS, "the category has no masks"))

    def load(case: tuple[Sample, NDArray[np.float32], tuple[int, int]]) -> NDArray[np.bool_]:
        sample, anomaly_map, size = case
        if sample.mask is None:
            return np.zeros(anomaly_map.shape, bool)
        return resize_mask(read_mask(sample.mask, size), anomaly_map.shape, mask_resize)

    cases = zip(category.test, maps, sizes, strict=True)
    return pixel_metrics(maps, list(prefetch(cases, load, workers=workers, ahead=4 * workers)))


def _refuse_non_finite(
    samples: Sequence[Sample], image_scores: Sequence[float], maps: Sequence[NDArray[np.float32]]
) -> None:
    for sample, image_score, anomaly_map in zip(samples, image_scores, maps, strict=True):
        if not (np.isfinite(image_score) and np.isfinite(anomaly_map).all()):
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


@contextmanager
def _timed(timing: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timing[stage] = time.perf_counter() - start
