"""AVSegFormer: configuration, model, processor and the converter of official checkpoints."""

from .configuration_avsegformer import AvSegFormerConfig
from .modeling_avsegformer import (
    AvSegFormerForAudioVisualSegmentation,
    AvSegFormerModel,
    AvSegFormerModelOutput,
    AvSegFormerPreTrainedModel,
    AvSegFormerSegmenterOutput,
    binary_cross_entropy_loss,
    dice_loss,
    segmentation_loss,
)
from .processing_avsegformer import AvSegFormerFeatureExtractor, AvSegFormerImageProcessor, AvSegFormerProcessor

__all__ = [
    "AvSegFormerConfig",
    "AvSegFormerFeatureExtractor",
    "AvSegFormerForAudioVisualSegmentation",
    "AvSegFormerImageProcessor",
    "AvSegFormerModel",
    "AvSegFormerModelOutput",
    "AvSegFormerPreTrainedModel",
    "AvSegFormerProcessor",
    "AvSegFormerSegmenterOutput",
    "binary_cross_entropy_loss",
    "dice_loss",
    "segmentation_loss",
]
