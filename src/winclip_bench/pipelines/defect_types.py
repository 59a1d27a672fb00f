"""Which type of defect each test image of a category shows, in one stage or two."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from winclip_bench.clip.defect_prompts import DefectPrompts, from_content, from_names
from winclip_bench.clip.tiles import stitch
from winclip_bench.clip.windows import incidence
from winclip_bench.config import FirstStage, Stage, TextPrototype
from winclip_bench.data import GOOD, Category
from winclip_bench.encoding import ImageFile, windows_kind
from winclip_bench.errors import InputError
from winclip_bench.methods import defect_types
from winclip_bench.methods.thresholds import Threshold
from winclip_bench.methods.winclip import upsample
from winclip_bench.metrics import Measured
from winclip_bench.metrics.classification import binary_metrics, scalars, section
from winclip_bench.metrics.labels import LabelMetrics, label_metrics
from winclip_bench.pipelines.deciding import calibration_images, choose_threshold, oracles
from winclip_bench.pipelines.shared import Evaluation, Reference, Scored, encode_images, image_files, timed
from winclip_bench.pipelines.winclip import encode_text, score_images
from winclip_bench.reading import LARGEST_TEXT, parse_yaml, read_bytes, reason


def run_defect_types(
    run: Evaluation, category: Category, references: Sequence[Reference], timing: dict[str, float]
) -> Scored:
    """Types of all test images, or with stage defects_only of the anomalous ones.

    Image scores are those of the first stage, or in a single stage the best defect's similarity minus that to good.
    Maps are WinCLIP's, WinCLIP+'s with references. Raises InputError for prompts or a threshold rule that do not fit.
    """
    config, stage = run.config, run.config.stage
    assert stage is not None, "config sees to it"
    images, gallery = image_files(run, category.test), [reference.file for reference in references]
    class_name = run.class_names[category.name]
    prompts = choose_prompts(run, category)
    calibration = calibration_images(run, references) if stage is Stage.two else []
    with timed(timing, "encode"):
        of_classes = prompts.classes(class_name)
        prototypes = _prototypes(run, list(of_classes.values()))
        sides = _prototypes(run, prompts.sides(class_name))
        winclip_text = encode_text(run.encoder, class_name, config)
        copies = [copy for some in calibration for copy in some]
        encoded = encode_images(run, category, [*gallery, *images, *copies])

    classes, keys = list(of_classes), [sample.key for sample in category.test]
    with timed(timing, "score"):
        winclip_scores, maps = score_images(run, images, gallery, winclip_text)
        similarity = _similarities(run, images, prototypes)
        threshold: Threshold | None = None
        if stage is Stage.single:
            scores = similarity[:, 1:].amax(-1) - similarity[:, 0]
        elif config.method.first_stage is FirstStage.winclip:
            scores = torch.tensor(winclip_scores, dtype=torch.float64)
        else:
            scores = _difference(run, images, sides)
        if stage is Stage.two:
            threshold = choose_threshold(
                run, category, scores, calibration, lambda some: _difference(run, some, sides)
            )  # fmt: skip
        anomalous = None if threshold is None else threshold.decide(scores)
        predicted = [classes[index] for index in defect_types.decide(stage.value, similarity, anomalous).tolist()]
        type_maps = _type_maps(run, images, prototypes) if config.save_maps and config.scales else None

    typing, metrics = _measure(run, category, predicted, classes, threshold=threshold, scores=scores)
    if stage is Stage.defects_only:
        predicted = [name if sample.label else "" for name, sample in zip(predicted, category.test, strict=True)]
    return Scored(
        scores.tolist(), maps, encoded, predicted, metrics, typing,
        type_maps=None if type_maps is None else (classes, dict(zip(keys, type_maps, strict=True))),
    )  # fmt: skip


def choose_prompts(run: Evaluation, category: Category) -> DefectPrompts:
    """The set that `method.defect_prompts` names, or one made from the names of the category's defects.

    Raises InputError where the set lacks a defect, or the category has none.
    """
    defects = sorted({sample.defect for sample in category.test if sample.label})
    if not defects:
        raise InputError(f"category {category.name!r} has no anomalous test images, so there is no defect to name")
    chosen, prompts = run.config.method.defect_prompts, run.config.prompts
    if chosen is None:
        return from_names(defects, prompts.normal_states, prompts.anomalous_states, prompts.templates)
    found = curated_set(chosen)
    lacking = [defect for defect in defects if defect not in found.defects]
    if lacking:
        raise InputError(
            f"method.defect_prompts={chosen} has no states for {', '.join(lacking)} of {category.name!r}; add them, "
            "or set method.defect_prompts=null"
        )
    return found


def curated_set(chosen: str) -> DefectPrompts:
    """The set of conf/prompts/defects of that name, or in that file. Raises InputError for neither."""
    curated = files("winclip_bench.conf") / "prompts" / "defects" / f"{chosen}.yaml"
    place = curated if curated.is_file() else Path(chosen)
    try:
        content = parse_yaml(read_bytes(Path(str(place)), LARGEST_TEXT).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"method.defect_prompts={chosen} is neither a set in conf/prompts/defects nor a readable YAML file "
            f"({reason(error)})"
        ) from error
    return from_content(content, str(place))


def _prototypes(run: Evaluation, classes: Sequence[Sequence[str]]) -> Tensor:
    """Prototypes [C, E] of classes of prompts, in the form of the protocol."""
    original = run.config.protocol.text_prototype is TextPrototype.unnormalised
    embeddings = [run.encoder.prompts(prompts) for prompts in classes]
    return defect_types.prototypes(embeddings, "unnormalised" if original else "mean_of_unit")


def _similarities(run: Evaluation, images: Sequence[ImageFile], prototypes: Tensor) -> Tensor:
    """Similarities [n, C] of images to prototypes, the mean over an image's tiles."""
    return torch.stack(
        [
            defect_types.similarities(run.encoder.features([image], "image"), prototypes).double().mean(0)
            for image in images
        ]
    )


def _difference(run: Evaluation, images: Sequence[ImageFile], sides: Tensor) -> Tensor:
    """Compositional differences [n] of images, the mean over an image's tiles."""
    return torch.stack(
        [
            defect_types.compositional_difference(run.encoder.features([image], "image"), sides).double().mean()
            for image in images
        ]
    )


def _type_maps(run: Evaluation, images: Sequence[ImageFile], prototypes: Tensor) -> list[NDArray[np.uint8]]:
    """What kind of defect is where: the index of the likeliest class at each pixel [H, W], 0 for good."""
    encoder, config = run.encoder, run.config
    grid = encoder.grid(images[0])
    incidences = {side: incidence(grid, side) for side in config.scales}
    maps = []
    for image in images:
        windows = {side: encoder.features([image], windows_kind(side)) for side in config.scales}
        found = defect_types.patch_probabilities(windows, incidences, prototypes, config.protocol.temperature)
        geometry = encoder.geometry(image)
        of_classes = [
            stitch(upsample(found[..., index], grid, encoder.image_size), geometry.corners, geometry.size)
            for index in range(found.shape[-1])
        ]
        probabilities = torch.stack(of_classes, -1)
        maps.append(defect_types.type_map(probabilities, probabilities[..., 0] < 0.5).numpy().astype(np.uint8))
    return maps


def _measure(
    run: Evaluation,
    category: Category,
    predicted: Sequence[str],
    classes: Sequence[str],
    *,
    threshold: Threshold | None,
    scores: Tensor,
) -> tuple[dict[str, Any], Measured]:
    """The section `typing` of a record, and its scalars."""
    stage = run.config.stage
    assert stage is not None, "config sees to it"
    only = stage is Stage.defects_only
    samples = [
        (name, sample) for name, sample in zip(predicted, category.test, strict=True) if sample.label or not only
    ]
    types = label_metrics(
        [name for name, _ in samples], [sample.defect for _, sample in samples], classes[1:] if only else classes
    )
    binary: LabelMetrics | None = None
    if not only:
        binary = binary_metrics([name != GOOD for name in predicted], [sample.label for sample in category.test])
    how = {
        # CLIP-CPE's means are scikit-learn's, to which the precision of a class that is never predicted is 0.
        "undefined_is_zero": run.config.protocol.text_prototype is TextPrototype.unnormalised,
        "oracle": threshold is not None and threshold.is_oracle,
    }
    values = scalars(types, "type", **how) | (scalars(binary, "binary", **how) if binary else {})
    undefined = {name: "no class defines it" for name, value in values.items() if value is None}
    typing = {
        "stage": stage.value,
        "type": section(types),
        "binary": None if binary is None else section(binary),
        "threshold": None if threshold is None else threshold.as_dict(),
        "oracle": {} if only else oracles(scores, category),
    }
    return typing, Measured(values, undefined)
