"""The feature store: what was encoded once is read for ever."""

from winclip_bench.features.store import ENCODER_VERSION, FeatureStore, Geometry, model_key

__all__ = ["ENCODER_VERSION", "FeatureStore", "Geometry", "model_key"]
