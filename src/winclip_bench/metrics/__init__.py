"""Metrics of anomaly maps, image scores and predicted labels, on plain arrays; docs/metrics.md defines each."""

from winclip_bench.metrics.intervals import (
    Interval,
    Resampled,
    Spread,
    difference,
    mean_over_classes,
    resample_pixels,
    resample_samples,
    spread,
)
from winclip_bench.metrics.labels import LABEL_METRICS, LabelMetrics, label_metrics
from winclip_bench.metrics.measured import Measured
from winclip_bench.metrics.pixel import PIXEL_METRICS, pixel_metrics, stream_pixel_metrics
from winclip_bench.metrics.resize import resize_map
from winclip_bench.metrics.sample import SAMPLE_METRICS, sample_metrics

__all__ = [
    "LABEL_METRICS",
    "PIXEL_METRICS",
    "SAMPLE_METRICS",
    "Interval",
    "LabelMetrics",
    "Measured",
    "Resampled",
    "Spread",
    "difference",
    "label_metrics",
    "mean_over_classes",
    "pixel_metrics",
    "resample_pixels",
    "resample_samples",
    "resize_map",
    "sample_metrics",
    "spread",
    "stream_pixel_metrics",
]
