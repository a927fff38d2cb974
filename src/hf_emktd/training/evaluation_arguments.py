"""How a model is evaluated, as options of a script."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..metrics.event_classification import SCORES
from ..metrics.segmentation import PROTOCOLS
from .clip_data import TEST

MODALITIES = {
    "both": ("input_values", "pixel_values"),
    "audio": ("input_values",),
    "visual": ("pixel_values",),
}
# how SceneTransform calls the sound of each control
CONTROLS = {"swapped_sound": "swapped", "silence": "silence"}


@dataclass
class EvaluationArguments:
    """
    How a model is evaluated.

    Raises:
        ValueError: for unknown modalities, scores, protocol or controls, or a number below 1.
    """

    split: str = field(default=TEST, metadata={"help": "Split to evaluate; without a test split the validation one."})
    frames: int = field(
        default=1,
        metadata={
            "help": "1: the middle frame. More: softmax averaged over so many evenly spaced stored frames; 10 is "
            "CAV-MAE's headline."
        },
    )
    scores: str = field(
        default="logits", metadata={"help": "What AP and AUC rank: logits (CAV-MAE) or softmax (VGGSound)."}
    )
    modalities: list[str] | None = field(
        default=None,
        metadata={
            "help": "Which inputs to give: both, audio, visual; by default all that the model and the clips allow."
        },
    )
    protocol: str = field(
        default="avsbench",
        metadata={"help": "How MJ and MF are averaged: avsbench (official: per clip, then over clips) or dataset."},
    )
    controls: list[str] = field(
        default_factory=lambda: list(CONTROLS),
        metadata={
            "help": "Beside MJ and MF, with the sound of another clip and in silence (swapped_sound, silence); 'none'."
        },
    )
    batch_size: int = field(default=64, metadata={"help": "Clips per forward pass."})

    def __post_init__(self) -> None:
        given = MODALITIES if self.modalities is None else self.modalities
        unknown = [name for name in given if name not in MODALITIES]
        if unknown or not given:
            raise ValueError(f"modalities must be among {', '.join(MODALITIES)}, got {', '.join(unknown) or 'none'}.")
        if self.controls == ["none"]:
            self.controls = []
        if unknown := [name for name in self.controls if name not in CONTROLS]:
            raise ValueError(f"controls must be among {', '.join(CONTROLS)} or 'none', got {', '.join(unknown)}.")
        for name, known in (("scores", SCORES), ("protocol", PROTOCOLS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}.")
        for name in ("frames", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
