"""Any audio encoder with any visual encoder of transformers: configuration, model, and how two are joined."""

from .configuration_audio_visual_encoder import AudioVisualEncoderConfig
from .modeling_audio_visual_encoder import (
    AudioVisualEncoderClassifierOutput,
    AudioVisualEncoderForAudioVisualClassification,
    AudioVisualEncoderModel,
    AudioVisualEncoderModelOutput,
    AudioVisualEncoderPreTrainedModel,
)

__all__ = [
    "AudioVisualEncoderClassifierOutput",
    "AudioVisualEncoderConfig",
    "AudioVisualEncoderForAudioVisualClassification",
    "AudioVisualEncoderModel",
    "AudioVisualEncoderModelOutput",
    "AudioVisualEncoderPreTrainedModel",
]
