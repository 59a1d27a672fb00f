"""The embedding baselines on one category: class prototypes against pseudo-anomalies, and a small trained head."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from winclip_bench.config import ThresholdRule, Training
from winclip_bench.data import Category
from winclip_bench.encoding import ImageFile
from winclip_bench.errors import InputError
from winclip_bench.methods import linear_head, prototypes, thresholds
from winclip_bench.methods.thresholds import Threshold
from winclip_bench.metrics import Measured
from winclip_bench.metrics.classification import BINARY, binary_metrics, scalars, section, summary
from winclip_bench.pipelines.augmenting import damaged_copy, mirrored_copy
from winclip_bench.pipelines.deciding import fixed_or_oracle
from winclip_bench.pipelines.shared import (
    Evaluation,
    Reference,
    Scored,
    classes_of,
    encode_images,
    image_files,
    timed,
)


def run_prototypes(
    run: Evaluation, category: Category, references: Sequence[Reference], timing: dict[str, float]
) -> Scored:
    """Similarity to a bank of pseudo-anomalies minus that to the nearest class of normal images."""
    config = run.config
    images = image_files(run, category.test)
    classes = _by_class(category, references)
    made = (config.seed, config.runtime.cache_dir, config.dataset.max_pixels)
    with timed(timing, "encode"):
        normal = {name: [reference.file for reference in members] for name, members in classes.items()}
        damaged = {
            name: [damaged_copy(file, *made) for file in some[: prototypes.PSEUDO_ANOMALIES_PER_CLASS]]
            for name, some in normal.items()
        }
        encoded = encode_images(run, category, [*images, *chain(*damaged.values()), *chain(*normal.values())])
    with timed(timing, "score"):
        of_classes = {name: _embeddings(run, some) for name, some in normal.items()}
        banks = {name: _embeddings(run, some) for name, some in damaged.items()}
        found = prototypes.compare(
            _embeddings(run, images),
            prototypes.class_prototypes(list(of_classes.values())),
            torch.cat(list(banks.values())),
        )
        rule = config.method.threshold_rule
        if rule in (ThresholdRule.conformal, ThresholdRule.normal):
            calibrate = thresholds.conformal if rule is ThresholdRule.conformal else thresholds.normal
            threshold = calibrate(_left_out(of_classes, banks), config.method.false_alarm_rate)
        else:
            threshold = fixed_or_oracle(run, category, found.score.double())
    scores = {
        "anomaly_score": found.score.numpy(),
        "normal_similarity": found.normal.numpy(),
        "anomaly_similarity": found.anomalous.numpy(),
    }
    return _decided(run, category, found.score, threshold, averaged=scores, encoded=encoded)


def run_linear_head(
    run: Evaluation, category: Category, references: Sequence[Reference], timing: dict[str, float]
) -> Scored:
    """The logit of a linear layer trained on the references against pseudo-anomalies of them."""
    config = run.config
    original = config.protocol.training is Training.original
    images, normal = image_files(run, category.test), [reference.file for reference in references]
    if len(normal) < 2 and not original:
        raise InputError(
            f"k_shot={config.k_shot} gives category {category.name!r} one training image, and method=linear_head takes "
            "at least two; set k_shot=2 or more"
        )
    with timed(timing, "encode"):
        copy = mirrored_copy if original else damaged_copy
        made = (config.seed, config.runtime.cache_dir, config.dataset.max_pixels)
        damaged = [copy(file, *made) for file in normal]
        encoded = encode_images(run, category, [*images, *normal, *damaged])
    with timed(timing, "score"):
        tests = _embeddings(run, images)
        training = _train(run, category, _embeddings(run, normal), _embeddings(run, damaged), tests, original=original)
        logits = training.head.logits(tests).detach()
        threshold = fixed_or_oracle(run, category, logits.double())
        if original and not threshold.is_oracle:
            threshold = Threshold("fixed", math.inf, note="the original's inference calls every image normal")
    about = {
        "architecture": config.backbone.architecture,
        "weights_sha256": run.provenance["weights_sha256"],
        "class_name": run.class_names[category.name],
        "pixels": config.protocol.pixels.value,
        "non_square": config.protocol.non_square.value,
        "tile_stride": config.protocol.tile_stride,
        "resize": config.protocol.resize.value,
        "training": config.protocol.training.value,
        "seed": config.seed,
        "threshold": threshold.as_dict(),
    }
    scored = _decided(
        run, category, logits, threshold, averaged={"anomaly_score": logits.sigmoid().numpy()}, encoded=encoded
    )
    return replace(scored, head=linear_head.to_bytes(training.head, about))


def _train(
    run: Evaluation, category: Category, normal: Tensor, damaged: Tensor, tests: Tensor, *, original: bool
) -> linear_head.Training:
    embeddings, labels = torch.cat([normal, damaged]), torch.arange(2).repeat_interleave(len(normal))
    seed = run.config.seed
    if original:
        of_tests = torch.tensor([sample.label for sample in category.test])
        return linear_head.train(embeddings, labels, tests, of_tests, seed=seed, form="original")
    chooses = linear_head.held_out(len(normal), seed).repeat(2)
    return linear_head.train(
        embeddings[~chooses], labels[~chooses], embeddings[chooses], labels[chooses], seed=seed, form="right"
    )


def _by_class(category: Category, references: Sequence[Reference]) -> dict[str, list[Reference]]:
    """The references by class; those that a file names and that lie elsewhere are one class."""
    class_of = {sample.key: name for name, samples in classes_of(category).items() for sample in samples}
    found: dict[str, list[Reference]] = {}
    for reference in references:
        found.setdefault(class_of.get(reference.path, category.name), []).append(reference)
    return found


def _embeddings(run: Evaluation, images: Sequence[ImageFile]) -> Tensor:
    """Image embeddings [n, E], the mean over an image's tiles."""
    return torch.stack([run.encoder.features([image], "image").mean(0) for image in images])


def _left_out(classes: dict[str, Tensor], banks: dict[str, Tensor]) -> Tensor:
    """Scores [n] of the references, each without its part in its class's prototype and, by its damaged copy, in the
    bank; a class of one image is left out whole."""
    scores = []
    for name, members in classes.items():
        for index, embedding in enumerate(members):
            rest = {**classes, name: _without(members, index)}
            others = [some for some in rest.values() if len(some)]
            if not others:
                raise InputError(
                    "k_shot=1 leaves no other reference to calibrate with; set k_shot=2 or more, or "
                    "method.threshold_rule=fixed"
                )
            bank = torch.cat(list({**banks, name: _without(banks[name], index)}.values()))
            scores.append(prototypes.compare(embedding[None], prototypes.class_prototypes(others), bank).score)
    return torch.cat(scores).double()


def _without(rows: Tensor, index: int) -> Tensor:
    """All rows but one, or all where there is no such row."""
    return torch.cat([rows[:index], rows[index + 1 :]])


def _decided(
    run: Evaluation,
    category: Category,
    scores: Tensor,
    threshold: Threshold,
    *,
    averaged: dict[str, np.ndarray],
    encoded: int,
) -> Scored:
    anomalous = threshold.decide(scores.double()).numpy()
    labels = np.array([sample.label for sample in category.test])
    binary = binary_metrics(anomalous, labels)
    values = scalars(binary, "binary", oracle=threshold.is_oracle)
    undefined = {name: "no class defines it" for name, value in values.items() if value is None}
    return Scored(
        scores.double().tolist(),
        None,
        encoded,
        [BINARY[int(decided)] for decided in anomalous],
        Measured(values, undefined),
        summary={
            **summary(anomalous, labels, averaged),
            "threshold": threshold.as_dict(),
            "confusion": section(binary)["confusion"],
        },
    )
