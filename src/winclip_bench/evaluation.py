"""One category: references, features, scores and maps, metrics, record."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from winclip_bench.clip.backbone import Backbone
from winclip_bench.clip.encoder import Features
from winclip_bench.clip.prompts import compose
from winclip_bench.clip.tiles import Tiles, cut, resize_mask, stitch
from winclip_bench.clip.windows import incidence
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
    read_image,
    read_mask,
    read_reference_file,
)
from winclip_bench.errors import InputError
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

    backbone   a function, because a run that finds everything finished loads no model
    listed     the references where a file names them, instead of a draw
    """

    config: Config
    run_id: str
    dataset: str
    digests: Digests
    class_names: Mapping[str, str]
    backbone: Callable[[], Backbone]
    provenance: Mapping[str, Any]
    listed: list[Reference] | None = None


@dataclass(frozen=True)
class Result:
    """A record and the files that lie beside it."""

    record: Record
    scores: list[Score]
    maps: dict[str, NDArray[np.float32]] | None


@dataclass(frozen=True)
class Encoded:
    """An image's features, its T tiles as the batch, and where the tiles lie in the resized image."""

    features: Features
    corners: tuple[tuple[int, int], ...]
    size: tuple[int, int]
    original_size: tuple[int, int]


def evaluate(run: Evaluation, category: Category) -> Result:
    """Score every test image of a category and measure. Raises InputError naming what is wrong with it."""
    check_category(category)
    config = run.config
    timing: dict[str, float] = {}
    references = choose_references(run, category)
    backbone = run.backbone()
    backbone.check_scales(config.scales)

    with _timed(timing, "encode"):
        text_prototypes = encode_text(backbone, run.class_names[category.name], config)
        images = [sample.image for sample in category.test]
        encoded = dict(
            encode_images(backbone, [*(reference.image for reference in references), *images], config, category.name)
        )
    with _timed(timing, "score"):
        gallery = reference_features(backbone, [encoded[reference.image].features for reference in references], config)
        scored = [score_image(backbone, encoded[image], text_prototypes, gallery, config) for image in images]
        _refuse_non_finite(category.test, scored)
    with _timed(timing, "metrics"):
        image_scores = [image_score for image_score, _ in scored]
        maps = [anomaly_map for _, anomaly_map in scored]
        samples = sample_metrics(np.array(image_scores), np.array([sample.label for sample in category.test]))
        pixels = measure_pixels(category, maps, [encoded[image].original_size for image in images], config)

    return Result(
        record=Record(
            run_id=run.run_id,
            dataset=run.dataset,
            category=category.name,
            config=as_dict(config),
            metrics={**pixels.values, **samples.values},
            undefined={**pixels.undefined, **samples.undefined},
            warnings=_warnings(category),
            counts={
                **_counts(category),
                "tiles": sum(len(encoded[image].corners) for image in images),
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
    images = read_reference_file(file, category)
    if not 0 < k <= len(images):
        raise InputError(
            f"references.file={file} names {len(images)} images; set k_shot={k} to one of 1 to {len(images)}"
        )
    keys = {sample.image: sample.key for sample in category.train}
    return [Reference(image, keys.get(image, image.as_posix()), file_sha256(image)) for image in images[:k]]


def encode_text(backbone: Backbone, class_name: str, config: Config) -> Tensor:
    """The two text prototypes [2, E] of a class, normal first."""
    sides = [
        compose(class_name, states, config.prompts.templates)
        for states in (config.prompts.normal_states, config.prompts.anomalous_states)
    ]
    embeddings = backbone.encode_prompts(sides[0] + sides[1])
    return winclip.prototypes(
        embeddings[: len(sides[0])], embeddings[len(sides[0]) :], config.protocol.text_prototype.value
    )


def encode_images(
    backbone: Backbone, images: Sequence[Path], config: Config, category: str
) -> Iterator[tuple[Path, Encoded]]:
    """Features of every image, decoded in the background while the model works on the ones before."""
    protocol = config.protocol

    def load(path: Path) -> tuple[Path, Tiles, tuple[int, int]]:
        image = read_image(path)
        tiles = cut(
            image,
            backbone.image_size,
            backbone.mean,
            backbone.std,
            non_square=protocol.non_square.value,
            stride=protocol.tile_stride,
            resize=protocol.resize.value,
        )
        return path, tiles, image.size

    unique = list(dict.fromkeys(images))
    loaded = prefetch(unique, load, workers=config.runtime.workers, ahead=4 * config.runtime.batch_size)
    with tqdm(total=len(unique), desc=category, unit="image", leave=False, disable=None) as progress:
        for batch in _batches(loaded, config.runtime.batch_size):
            features = backbone.encode_images(torch.cat([tiles.pixels for _, tiles, _ in batch]), config.scales)
            start = 0
            for path, tiles, original_size in batch:
                part = features[start : start + len(tiles.pixels)].to("cpu")
                start += len(tiles.pixels)
                yield path, Encoded(part, tiles.corners, tiles.size, original_size)
                progress.update()


def _batches(
    loaded: Iterable[tuple[Path, Tiles, tuple[int, int]]], batch_size: int
) -> Iterator[list[tuple[Path, Tiles, tuple[int, int]]]]:
    """Images together until they have at least `batch_size` tiles."""
    batch: list[tuple[Path, Tiles, tuple[int, int]]] = []
    for item in loaded:
        batch.append(item)
        if sum(len(tiles.pixels) for _, tiles, _ in batch) >= batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def reference_features(backbone: Backbone, features: Sequence[Features], config: Config) -> winclip.References | None:
    """The features of all references as one gallery; None without references."""
    if not features:
        return None
    patches = torch.cat([part.patches.flatten(0, 1) for part in features]).to(backbone.device)
    return winclip.References(
        patches=F.normalize(_patch_features(backbone, patches, config), dim=-1),
        windows={
            side: torch.cat([part.windows[side].flatten(0, 1) for part in features]).to(backbone.device)
            for side in config.scales
        },
    )


def _patch_features(backbone: Backbone, patches: Tensor, config: Config) -> Tensor:
    after = config.protocol.patch_features is PatchFeatures.after_ln_post
    return backbone.normalise_patches(patches) if after else patches


@torch.inference_mode()
def score_image(
    backbone: Backbone,
    encoded: Encoded,
    text_prototypes: Tensor,
    gallery: winclip.References | None,
    config: Config,
) -> tuple[float, NDArray[np.float32]]:
    """Image score and anomaly map [H, W] of one image from its tiles."""
    features = encoded.features.to(backbone.device)
    scores = winclip.score(
        features.image,
        features.windows,
        _patch_features(backbone, features.patches, config),
        text_prototypes,
        {side: incidence(backbone.grid, side).to(backbone.device) for side in config.scales},
        temperature=config.protocol.temperature,
        references=gallery,
        combination=config.protocol.map_combination.value,
    )
    tiles = winclip.upsample(scores.maps, backbone.grid, backbone.image_size)
    return (
        float(winclip.image_score(scores.text, scores.association_max)),
        stitch(tiles, encoded.corners, encoded.size).cpu().numpy(),
    )


def measure_pixels(
    category: Category, maps: Sequence[NDArray[np.float32]], sizes: Sequence[tuple[int, int]], config: Config
) -> Measured:
    """Pixel metrics at the size of the maps; all undefined for a category without masks.

    sizes   (width, height) of the images as they are on disk, which their masks must have
    """
    if not category.has_masks:
        return Measured(dict.fromkeys(PIXEL_METRICS), dict.fromkeys(PIXEL_METRICS, "the category has no masks"))
    masks = [
        np.zeros(anomaly_map.shape, bool)
        if sample.mask is None
        else resize_mask(read_mask(sample.mask, size), anomaly_map.shape, config.protocol.mask_resize.value)
        for sample, anomaly_map, size in zip(category.test, maps, sizes, strict=True)
    ]
    return pixel_metrics(maps, masks)


def _refuse_non_finite(samples: Sequence[Sample], scored: Sequence[tuple[float, NDArray[np.float32]]]) -> None:
    for sample, (image_score, anomaly_map) in zip(samples, scored, strict=True):
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


def _warnings(category: Category) -> list[str]:
    labels = {sample.label for sample in category.test}
    if len(labels) == 2:
        return []
    kind, missing = ("normal", "anomalous") if labels == {0} else ("anomalous", "normal")
    return [f"all test images are {kind}, so metrics that compare them with {missing} ones are undefined; add some"]


@contextmanager
def _timed(timing: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timing[stage] = time.perf_counter() - start
