"""CAV-MAE: configuration, model, processor and the converter of official checkpoints."""

from .configuration_cav_mae import CavMaeConfig
from .modeling_cav_mae import (
    CavMaeClassifierOutput,
    CavMaeForAudioVisualClassification,
    CavMaeModel,
    CavMaeModelOutput,
    CavMaePreTrainedModel,
)
from .processing_cav_mae import CavMaeFeatureExtractor, CavMaeImageProcessor, CavMaeProcessor

__all__ = [
    "CavMaeClassifierOutput",
    "CavMaeConfig",
    "CavMaeFeatureExtractor",
    "CavMaeForAudioVisualClassification",
    "CavMaeImageProcessor",
    "CavMaeModel",
    "CavMaeModelOutput",
    "CavMaePreTrainedModel",
    "CavMaeProcessor",
]
