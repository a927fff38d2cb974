"""Configuration of transformers' perception encoder for sound and film (PE-AV) with a head for events."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PeAudioVideoEncoderConfig, PreTrainedConfig

# What no clip is: a file that says so would have terabytes allocated.
MAX_SIZES = {"num_samples": 2**28, "num_frames": 2**12, "image_size": 2**14}


@strict
class PeAudioVideoClassificationConfig(PreTrainedConfig):
    r"""
    Configuration of a [`PeAudioVideoForAudioVisualClassification`], a frozen teacher.

    The encoder's tokens run through time alone: sound has one each `hop_length` samples, film one a frame, and the
    fusion, where the film is brought to the rate of the sound, one for each of the sound's. So the grids have a single
    row, and a student whose tokens lie on the picture or on a spectrogram cannot be compared with them token by token.

    Args:
        encoder_config (`PeAudioVideoEncoderConfig` or `dict`, *optional*, defaults to that of PE-AV large):
            Of the inner model.
        num_samples (`int`, *optional*, defaults to 480000):
            Samples of the waveform: 10 s at PE-AV's 48 kHz. A multiple of the codec's `hop_length`.
        num_frames (`int`, *optional*, defaults to 16):
            Frames of the film.
        image_size (`int`, *optional*, defaults to 336):
            Side of the square frames in pixels.
        expose_tokens (`bool`, *optional*, defaults to `True`):
            Whether the branches are part of the contract. `False` makes a teacher of logits alone, which any student
            of the same classes may learn from.
        num_labels (`int`, *optional*, defaults to 2):
            Number of classes, named `LABEL_0`, `LABEL_1`, ... unless `id2label` is given.

    Raises:
        `ValueError`: if a size is not positive, or `num_samples` ends inside a token.
    """

    model_type = "pe_audio_video_classification"
    task: ClassVar[str] = "audio-visual-classification"
    sub_configs: ClassVar[dict[str, type]] = {"encoder_config": PeAudioVideoEncoderConfig}
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["audio_tokens", "visual_tokens", "fusion_tokens"]

    encoder_config: dict | PreTrainedConfig | None = None
    num_samples: int = 480000
    num_frames: int = 16
    image_size: int = 336
    expose_tokens: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.encoder_config, PreTrainedConfig):
            self.encoder_config = _encoder_config(self.encoder_config or {})
        super().__post_init__(**kwargs)

    @property
    def hop_length(self) -> int:
        """Samples of one audio token."""
        return self.encoder_config.audio_config.dac_config.hop_length

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each input that the model takes for one clip, without the batch: a waveform and a film."""
        film = (self.num_frames, 3, self.image_size, self.image_size)
        return {"input_values": (1, self.num_samples), "pixel_values": film}

    @property
    def branch_grids(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """Grids that the tokens of each branch lie on: one row."""
        sound, film = ((1, self.num_samples // self.hop_length),), ((1, self.num_frames),)
        return {"audio": sound, "visual": film, "fusion": sound} if self.expose_tokens else {}

    @property
    def branch_widths(self) -> dict[str, int]:
        """Width of the tokens of each branch."""
        encoder = self.encoder_config
        parts = {"audio": encoder.audio_config, "visual": encoder.video_config, "fusion": encoder}
        return {branch: config.hidden_size for branch, config in parts.items()} if self.expose_tokens else {}

    def to_diff_dict(self) -> dict[str, Any]:
        """What is saved: the encoder whole, and two unnamed labels, which the base class leaves out."""
        kept = {"id2label": dict(self.id2label), "encoder_config": self.encoder_config.to_dict()}
        return {**super().to_diff_dict(), **kept}

    def validate_architecture(self) -> None:
        """Part of `@strict`: called after construction, raises if the sizes do not fit together."""
        for name, largest in MAX_SIZES.items():
            if not 1 <= getattr(self, name) <= largest:
                raise ValueError(f"{name} must be at least 1 and at most {largest:,} but is {getattr(self, name):,}.")
        if self.num_samples % self.hop_length:
            nearest = max(1, round(self.num_samples / self.hop_length)) * self.hop_length
            raise ValueError(
                f"num_samples {self.num_samples} is not a multiple of the {self.hop_length} samples of a token; use "
                f"{nearest}, for example."
            )


def _encoder_config(fields: dict[str, Any]) -> PeAudioVideoEncoderConfig:
    """transformers reads the config of any picture encoder as one of timm's, unless it is given as an object."""
    film = dict(fields.get("video_config") or {})
    picture = dict(film.get("vision_config") or {})
    if picture.get("model_type", "timm_wrapper") != "timm_wrapper":
        film["vision_config"] = AutoConfig.for_model(picture.pop("model_type"), **picture)
    film = AutoConfig.for_model(film.pop("model_type", "pe_video_encoder"), **film)
    return PeAudioVideoEncoderConfig(**{**fields, "video_config": film})


__all__ = ["PeAudioVideoClassificationConfig"]
