from .classification import AudioVisualClassificationPipeline
from .media_inputs import Media, open_media
from .segmentation import AudioVisualSegmentationPipeline

__all__ = ["AudioVisualClassificationPipeline", "AudioVisualSegmentationPipeline", "Media", "open_media"]
