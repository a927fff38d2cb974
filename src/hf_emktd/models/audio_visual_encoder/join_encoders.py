"""
Joins two pre-trained encoders into one model directory; fusion and head are new and must be trained.

    python -m hf_emktd.models.audio_visual_encoder.join_encoders --audio MIT/ast-finetuned-audioset-10-10-0.4593 \\
        --vision facebook/dinov2-base --image_size 224 --output_dir ast-dinov2
    python -m hf_emktd.models.audio_visual_encoder.join_encoders --audio ... --vision facebook/deit-tiny-patch16-224 \\
        --classes_of runs/teacher --output_dir student
"""

import argparse
import os
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import ASTFeatureExtractor, AutoConfig
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..cav_mae import CavMaeFeatureExtractor, CavMaeImageProcessor, CavMaeProcessor
from .configuration_audio_visual_encoder import AudioVisualEncoderConfig
from .modeling_audio_visual_encoder import AudioVisualEncoderForAudioVisualClassification


def join_encoders(
    audio: str | os.PathLike[str],
    vision: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    classes_of: str | os.PathLike[str] | None = None,
    **fields: Any,
) -> AudioVisualEncoderConfig:
    """
    Writes model and processor of two encoders to `output_dir`.

    Args:
        audio, vision (`str` or `PathLike`): See [`~AudioVisualEncoderPreTrainedModel.from_encoders_pretrained`].
        output_dir (`str` or `PathLike`): Where the model goes.
        classes_of (`str` or `PathLike`, *optional*): A model whose class names the new one gets, such as the teacher
            that it will be a student of.
        fields: Fields of [`AudioVisualEncoderConfig`].

    Raises:
        `ValueError`: if the encoders' grids are not known, or their sizes do not fit.
    """
    if classes_of is not None:
        fields["id2label"] = AutoConfig.from_pretrained(classes_of).id2label
    model = AudioVisualEncoderForAudioVisualClassification.from_encoders_pretrained(audio, vision, **fields)
    model.save_pretrained(output_dir)
    processor_of_encoders(model.config, audio, vision).save_pretrained(output_dir)
    return model.config


def processor_of_encoders(
    config: AudioVisualEncoderConfig, audio: str | os.PathLike[str], vision: str | os.PathLike[str]
) -> CavMaeProcessor:
    """
    Prepares inputs as the two encoders saw them in pre-training: their sizes and their normalisation; AST's own where
    the audio encoder's folder says nothing, ImageNet's where the visual encoder's does not.

    Filter banks are the same in AST and CAV-MAE. AST divides by twice the standard deviation that it names.
    """
    sound, picture = _sound_extractor(audio), _picture_settings(vision)
    return CavMaeProcessor(
        CavMaeFeatureExtractor(
            num_mel_bins=config.num_mel_bins,
            audio_length=config.audio_length,
            sampling_rate=sound.sampling_rate,
            mean=sound.mean,
            std=2 * sound.std,
        ),
        CavMaeImageProcessor(
            image_size=config.image_size,
            image_mean=picture.get("image_mean") or IMAGENET_DEFAULT_MEAN,
            image_std=picture.get("image_std") or IMAGENET_DEFAULT_STD,
        ),
        config.modalities,
    )


def _sound_extractor(audio: str | os.PathLike[str]) -> ASTFeatureExtractor:
    try:
        return ASTFeatureExtractor.from_pretrained(audio)
    except OSError:  # a folder with nothing but weights
        return ASTFeatureExtractor()


def _picture_settings(vision: str | os.PathLike[str]) -> dict[str, Any]:
    """The image processor's file, read without the processor: that may need torchvision."""
    try:
        return BaseImageProcessor.get_image_processor_dict(vision)[0]
    except OSError:
        return {}


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", required=True, help="Directory or Hub id of the audio encoder.")
    parser.add_argument("--vision", required=True, help="Directory or Hub id of the visual encoder.")
    parser.add_argument("--output_dir", required=True, help="Directory to write model and processor to.")
    parser.add_argument("--classes_of", help="Directory or Hub id of a model whose class names are taken over.")
    parser.add_argument("--image_size", type=int, help="Side of the picture; by default the visual encoder's.")
    parser.add_argument("--fusion_hidden_size", type=int, help="Width of the fusion; by default the wider encoder's.")
    parser.add_argument("--fusion_depth", type=int, default=2, help="Layers of the fusion.")
    options = vars(parser.parse_args(arguments))
    try:
        config = join_encoders(**options)
    except (ValueError, OSError, StrictDataclassError) as error:
        parser.exit(1, f"error: {error.__cause__ or error}\n")
    grids = ", ".join(f"{branch} {grids}" for branch, grids in config.branch_grids.items())
    print(f"tokens: {grids}; widths {config.branch_widths}\nsaved to {Path(options['output_dir'])}")


if __name__ == "__main__":
    main()
