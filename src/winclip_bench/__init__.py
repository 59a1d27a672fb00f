"""Reference harness for CLIP-based zero- and few-shot anomaly detection."""

__version__ = "0.1.0"
