"""Small audio-visual students from large teachers: entropy-monitored kernelized token distillation."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoImageProcessor, AutoModel, AutoProcessor

from .models.cav_mae import (
    CavMaeConfig,
    CavMaeFeatureExtractor,
    CavMaeForAudioVisualClassification,
    CavMaeImageProcessor,
    CavMaeModel,
    CavMaeProcessor,
)

__version__ = "0.1.0"


def _register_auto_classes() -> None:
    """
    Makes the Auto classes know this package's models, both ways: as soon as it is imported, and, since saved models
    carry their code, through `trust_remote_code=True` where it is not installed.
    """
    AutoConfig.register(CavMaeConfig.model_type, CavMaeConfig)
    AutoModel.register(CavMaeConfig, CavMaeForAudioVisualClassification)
    AutoFeatureExtractor.register(CavMaeConfig, CavMaeFeatureExtractor)
    AutoImageProcessor.register(CavMaeConfig, image_processor_classes={"pil": CavMaeImageProcessor})
    AutoProcessor.register(CavMaeConfig, CavMaeProcessor)
    CavMaeConfig.register_for_auto_class("AutoConfig")
    CavMaeForAudioVisualClassification.register_for_auto_class("AutoModel")
    CavMaeFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
    CavMaeImageProcessor.register_for_auto_class("AutoImageProcessor")
    CavMaeProcessor.register_for_auto_class("AutoProcessor")


_register_auto_classes()

__all__ = [
    "CavMaeConfig",
    "CavMaeFeatureExtractor",
    "CavMaeForAudioVisualClassification",
    "CavMaeImageProcessor",
    "CavMaeModel",
    "CavMaeProcessor",
    "__version__",
]
