"""From image scores to decisions: the threshold that `method.threshold_rule` asks for."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from winclip_bench.config import FirstStage, ThresholdRule
from winclip_bench.data import Category
from winclip_bench.encoding import ImageFile
from winclip_bench.errors import InputError
from winclip_bench.methods import thresholds
from winclip_bench.methods.thresholds import Threshold
from winclip_bench.metrics.classification import binary_metrics, section
from winclip_bench.pipelines.augmenting import augmented
from winclip_bench.pipelines.shared import Evaluation, Reference
from winclip_bench.pipelines.winclip import encode_text, score_images

FEW = 8  # references, below which augmented copies of them steady what one image's score varies by

ORACLES = {"oracle_youden": thresholds.oracle_youden, "oracle_f1": thresholds.oracle_f1}


def calibration_images(run: Evaluation, references: Sequence[Reference]) -> list[list[ImageFile]]:
    """What a threshold of defect typing is calibrated on: each reference, and with the rule normal augmented copies of
    it where there are few; nothing for other rules.

    Raises InputError where the rule needs more references.
    """
    config, rule = run.config, run.config.method.threshold_rule
    if rule not in (ThresholdRule.conformal, ThresholdRule.normal):
        return []
    needed = 2 if config.method.first_stage is FirstStage.winclip else 1
    if len(references) < needed:
        raise InputError(
            f"k_shot={len(references)}, but method.threshold_rule={rule.value} calibrates on references; "
            f"set k_shot to at least {needed}, or method.threshold_rule=fixed"
        )
    if rule is ThresholdRule.conformal or len(references) >= FEW:
        return [[reference.file] for reference in references]
    made = (config.runtime.cache_dir, config.dataset.max_pixels)
    return [[reference.file, *augmented(reference.file, *made)] for reference in references]


def choose_threshold(
    run: Evaluation,
    category: Category,
    scores: Tensor,
    calibration: Sequence[Sequence[ImageFile]],
    score: Callable[[Sequence[ImageFile]], Tensor],
) -> Threshold:
    """The threshold of a category in two stages.

    scores       [n] of the test images, for the oracles alone
    calibration  as `calibration_images` gives it, encoded
    score        image scores of encoded images by a first stage that does not look at references

    Raises InputError where the rule cannot be followed.
    """
    method = run.config.method
    rule = method.threshold_rule
    compares = method.first_stage is FirstStage.winclip
    if not calibration:
        if compares and rule is ThresholdRule.fixed and not 0 < method.threshold < 1:
            raise InputError(
                f"method.threshold={method.threshold:g} does not cut the scores of method.first_stage=winclip, which "
                "lie in 0–1; set it between them, or another method.threshold_rule"
            )
        return fixed_or_oracle(run, category, scores)
    if compares:
        of_references = winclip_left_out(run, category, calibration)
    else:
        of_references = torch.stack([score(copies) for copies in calibration])
    if rule is ThresholdRule.conformal:
        return thresholds.conformal(of_references[:, 0], method.false_alarm_rate)
    return thresholds.normal(of_references, method.false_alarm_rate)


def fixed_or_oracle(run: Evaluation, category: Category, scores: Tensor) -> Threshold:
    """The threshold that is set, or the one that the test images' scores [n] and labels give.

    Raises InputError for an oracle without normal and anomalous test images.
    """
    method = run.config.method
    rule = method.threshold_rule
    if rule is ThresholdRule.fixed:
        return thresholds.fixed(method.threshold)
    labels = _labels(category)
    if len(set(labels.tolist())) < 2:
        raise InputError(
            f"method.threshold_rule={rule.value} needs normal and anomalous test images, and category "
            f"{category.name!r} has only one kind"
        )
    return ORACLES[rule.value](scores, labels)


def oracles(scores: Tensor, category: Category) -> dict[str, Any]:
    """What thresholds chosen on the test labels would give, by rule; empty without both labels."""
    labels = _labels(category)
    if len(set(labels.tolist())) < 2:
        return {}
    found = {}
    for rule, choose in ORACLES.items():
        threshold = choose(scores, labels)
        decided = binary_metrics(threshold.decide(scores).numpy(), labels.numpy())
        found[rule] = {"threshold": threshold.as_dict(), "binary": section(decided)}
    return found


def winclip_left_out(run: Evaluation, category: Category, calibration: Sequence[Sequence[ImageFile]]) -> Tensor:
    """WinCLIP+ scores [k, a] of references and their copies, each against the other references."""
    text = encode_text(run.encoder, run.class_names[category.name], run.config)
    rows = []
    for copies in calibration:
        others = [other[0] for other in calibration if other is not copies]
        rows.append(torch.tensor(score_images(run, copies, others, text)[0], dtype=torch.float64))
    return torch.stack(rows)


def _labels(category: Category) -> Tensor:
    return torch.from_numpy(np.array([sample.label for sample in category.test]))
