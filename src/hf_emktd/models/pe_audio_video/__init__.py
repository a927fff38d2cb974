"""transformers' PE-AV as a frozen teacher: configuration and model; its processors are transformers' own."""

from .configuration_pe_audio_video import PeAudioVideoClassificationConfig
from .modeling_pe_audio_video import PeAudioVideoClassifierOutput, PeAudioVideoForAudioVisualClassification

__all__ = [
    "PeAudioVideoClassificationConfig",
    "PeAudioVideoClassifierOutput",
    "PeAudioVideoForAudioVisualClassification",
]
