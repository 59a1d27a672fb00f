"""Image-level metrics: AUROC, F1-max, average precision and the trapezoidal area from one score per image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from winclip_bench.metrics import curves
from winclip_bench.metrics.measured import Measured

SAMPLE_METRICS = ("auroc_sp", "f1_sp", "ap_sp", "aupr_sp")


def sample_metrics(scores: Sequence[float] | NDArray[Any], labels: Sequence[int] | NDArray[Any]) -> Measured:
    """Metrics of image scores; see docs/metrics.md for the definitions.

    scores  [n] real numbers, higher is more anomalous
    labels  [n] 0 or False for normal, 1 or True for anomalous

    With one label only every metric is undefined. Raises ValueError on other labels, NaN or infinite scores, no
    scores, or different lengths.

    >>> measured = sample_metrics([0.9, 0.4, 0.6, 0.1], [1, 1, 0, 0])
    >>> measured.values["auroc_sp"], measured.values["f1_sp"], measured.thresholds["f1_sp"]
    (0.75, 0.8, 0.4)
    """
    array = curves.as_floats(scores, "scores")
    anomalous = check_labels(labels, len(array))
    counts = {"images": len(array), "anomalous_images": int(anomalous.sum())}
    if anomalous.all() or not anomalous.any():
        reason = "no normal image" if anomalous.all() else "no anomalous image"
        return Measured(dict.fromkeys(SAMPLE_METRICS), dict.fromkeys(SAMPLE_METRICS, reason), counts=counts)
    levels = curves.levels_of(array[anomalous], array[~anomalous])
    f1, best = curves.f1_max(levels)
    values: dict[str, float | None] = {
        "auroc_sp": float(curves.auroc(levels)),
        "f1_sp": float(f1),
        "ap_sp": float(curves.average_precision(levels)),
        "aupr_sp": float(curves.trapezoid_precision_recall(levels)),
    }
    threshold = float(np.unique(array[anomalous])[::-1][best])
    return Measured(values, thresholds={"f1_sp": threshold}, counts=counts)


def check_labels(labels: Sequence[int] | NDArray[Any], size: int) -> NDArray[np.bool_]:
    """Labels as [size] bool; ValueError unless there is at least one and all are 0 or 1."""
    array = np.asarray(labels)
    if array.shape != (size,):
        raise ValueError(f"labels are of shape {array.shape}, the scores of shape ({size},)")
    if size == 0:
        raise ValueError("there are no scores")
    if not np.isin(array, (0, 1)).all():
        raise ValueError("labels must be 0 (normal) or 1 (anomalous)")
    return array.astype(bool)
