"""WinCLIP and WinCLIP+ on one category: text and references to scores and maps."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from winclip_bench.clip.prompts import compose
from winclip_bench.clip.tiles import stitch
from winclip_bench.clip.windows import incidence
from winclip_bench.config import Config, PatchFeatures
from winclip_bench.data import Category
from winclip_bench.encoding import Encoder, ImageFile, windows_kind
from winclip_bench.features import Geometry
from winclip_bench.methods import winclip
from winclip_bench.pipelines.shared import Evaluation, Reference, Scored, encode_images, image_files, timed


def run_winclip(
    run: Evaluation, category: Category, references: Sequence[Reference], timing: dict[str, float]
) -> Scored:
    """WinCLIP without references, WinCLIP+ with them."""
    images, gallery = image_files(run, category.test), [reference.file for reference in references]
    with timed(timing, "encode"):
        text_prototypes = encode_text(run.encoder, run.class_names[category.name], run.config)
        encoded = encode_images(run, category, [*gallery, *images])
    with timed(timing, "score"):
        image_scores, maps = score_images(run, images, gallery, text_prototypes)
    return Scored(image_scores, maps, encoded)


def score_images(
    run: Evaluation, images: Sequence[ImageFile], gallery: Sequence[ImageFile], text_prototypes: Tensor
) -> tuple[list[float], list[NDArray[np.float32]] | None]:
    """Image scores and, if there are any, anomaly maps [H, W] of encoded images."""
    geometries = [run.encoder.geometry(image) for image in images]
    grid = run.encoder.grid(images[0])
    scores = score_tiles(run, images, gallery, text_prototypes, grid)
    return join_tiles(scores, geometries, grid, run.encoder.image_size)


def encode_text(encoder: Encoder, class_name: str, config: Config) -> Tensor:
    """The two text prototypes [2, E] of a class, normal first; [1, E] where the prompts have no anomalous states."""
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
    kinds = ("image", *map(windows_kind, config.scales)) if config.method.text_score else ()
    text = {kind: run.comparisons.to_text(images, kind, text_prototypes, config.protocol.temperature) for kind in kinds}
    similarity = None
    if gallery:
        norm = config.protocol.patch_features is PatchFeatures.after_ln_post
        similarity = winclip.Similarity(
            run.comparisons.to_nearest(images, gallery, "patches", norm),
            {side: run.comparisons.to_nearest(images, gallery, windows_kind(side)) for side in config.scales},
        )
    return winclip.score(
        text.get("image"),
        {side: text[windows_kind(side)] for side in config.scales if text},
        {side: incidence(grid, side) for side in config.scales},
        grid=grid,
        similarity=similarity,
        combination=config.protocol.map_combination.value,
        aggregation=config.method.aggregation.value,
        image_term=config.method.image_term,
    )


def join_tiles(
    scores: winclip.Scores, geometries: Sequence[Geometry], grid: int, side: int
) -> tuple[list[float], list[NDArray[np.float32]] | None]:
    """Image scores and, if there are any, anomaly maps [H, W] of images from the scores of their tiles, one after the
    other."""
    image_scores: list[float] = []
    maps: list[NDArray[np.float32]] | None = None if scores.maps is None else []
    start = 0
    for geometry in geometries:
        tiles = slice(start, start + len(geometry.corners))
        start = tiles.stop
        largest = None if scores.association_max is None else scores.association_max[tiles]
        text = None if scores.text is None else scores.text[tiles]
        image_scores.append(float(winclip.image_score(text, largest)))
        if scores.maps is not None and maps is not None:
            upsampled = winclip.upsample(scores.maps[tiles], grid, side)
            maps.append(stitch(upsampled, geometry.corners, geometry.size).numpy())
    return image_scores, maps
