"""Small audio-visual students from large teachers: entropy-monitored kernelized token distillation."""

from . import torch_pair  # noqa: F401

# isort: split
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

# from its own file: as a name of transformers 5.17 it demands torchvision, which Pillow processors do not need
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .distillation.objective_catalogue import list_objectives
from .lazy_adapters import take_adapters
from .lazy_pipeline import LazyPipeline
from .models.audio_visual_encoder import (
    AudioVisualEncoderConfig,
    AudioVisualEncoderForAudioVisualClassification,
    AudioVisualEncoderModel,
)
from .models.avsegformer import (
    AvSegFormerConfig,
    AvSegFormerFeatureExtractor,
    AvSegFormerForAudioVisualSegmentation,
    AvSegFormerImageProcessor,
    AvSegFormerModel,
    AvSegFormerProcessor,
)
from .models.cav_mae import (
    CavMaeConfig,
    CavMaeFeatureExtractor,
    CavMaeForAudioVisualClassification,
    CavMaeImageProcessor,
    CavMaeModel,
    CavMaeProcessor,
)
from .models.pe_audio_video import PeAudioVideoClassificationConfig, PeAudioVideoForAudioVisualClassification

__version__ = "0.1.0"


def _register_auto_classes() -> None:
    """
    Makes the Auto classes know this package's models, both ways: as soon as it is imported, and, since saved models
    carry their code, through `trust_remote_code=True` where it is not installed.
    """
    cav_mae_inputs = (CavMaeFeatureExtractor, CavMaeImageProcessor, CavMaeProcessor)
    _register_family(CavMaeConfig, CavMaeForAudioVisualClassification, *cav_mae_inputs)
    _register_family(AudioVisualEncoderConfig, AudioVisualEncoderForAudioVisualClassification, *cav_mae_inputs)
    _register_model(PeAudioVideoClassificationConfig, PeAudioVideoForAudioVisualClassification)
    avsegformer = (AvSegFormerConfig, AvSegFormerForAudioVisualSegmentation)
    _register_family(*avsegformer, AvSegFormerFeatureExtractor, AvSegFormerImageProcessor, AvSegFormerProcessor)


def _register_model(config: type, model: type) -> None:
    AutoConfig.register(config.model_type, config)
    AutoModel.register(config, model)
    config.register_for_auto_class("AutoConfig")
    model.register_for_auto_class("AutoModel")
    take_adapters(model)


def _register_family(
    config: type, model: type, feature_extractor: type, image_processor: type, processor: type
) -> None:
    _register_model(config, model)
    AutoFeatureExtractor.register(config, feature_extractor)
    AutoImageProcessor.register(config, image_processor_classes={"pil": image_processor})
    AutoProcessor.register(config, processor)
    feature_extractor.register_for_auto_class("AutoFeatureExtractor")
    image_processor.register_for_auto_class("AutoImageProcessor")
    processor.register_for_auto_class("AutoProcessor")


def _register_pipelines() -> None:
    names = {
        CavMaeConfig.task: "AudioVisualClassificationPipeline",
        AvSegFormerConfig.task: "AudioVisualSegmentationPipeline",
    }
    for task, name in names.items():
        PIPELINE_REGISTRY.register_pipeline(task, LazyPipeline(name), pt_model=AutoModel, type="multimodal")


_register_auto_classes()
_register_pipelines()

__all__ = [
    "AudioVisualEncoderConfig",
    "AudioVisualEncoderForAudioVisualClassification",
    "AudioVisualEncoderModel",
    "AvSegFormerConfig",
    "AvSegFormerFeatureExtractor",
    "AvSegFormerForAudioVisualSegmentation",
    "AvSegFormerImageProcessor",
    "AvSegFormerModel",
    "AvSegFormerProcessor",
    "CavMaeConfig",
    "CavMaeFeatureExtractor",
    "CavMaeForAudioVisualClassification",
    "CavMaeImageProcessor",
    "CavMaeModel",
    "CavMaeProcessor",
    "PeAudioVideoClassificationConfig",
    "PeAudioVideoForAudioVisualClassification",
    "__version__",
    "list_objectives",
]
