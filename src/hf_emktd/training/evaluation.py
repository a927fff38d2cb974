"""Evaluation of a classifier on a split: with both modalities or one, from one frame or the average of ten."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.collators import AudioVisualCollator
from ..metrics import average_frame_probabilities, event_classification_metrics
from .clip_data import TEST, ClipData

MODALITIES = {
    "both": ("input_values", "pixel_values"),
    "audio": ("input_values",),
    "visual": ("pixel_values",),
}
OFFICIAL_FRAMES = 10


@dataclass
class EvaluationArguments:
    """
    How a model is evaluated.

    Raises:
        ValueError: for unknown modalities, scores or frame counts.
    """

    split: str = field(default=TEST, metadata={"help": "Split to evaluate; without a test split the validation one."})
    frames: int = field(
        default=1, metadata={"help": "1: the middle frame. 10: softmax averaged over 10 frames (CAV-MAE's headline)."}
    )
    scores: str = field(
        default="logits", metadata={"help": "What AP and AUC rank: logits (CAV-MAE) or softmax (VGGSound)."}
    )
    modalities: list[str] = field(
        default_factory=lambda: list(MODALITIES), metadata={"help": "Which inputs to give: both, audio, visual."}
    )
    batch_size: int = field(default=64, metadata={"help": "Clips per forward pass."})

    def __post_init__(self):
        unknown = [name for name in self.modalities if name not in MODALITIES]
        if unknown:
            raise ValueError(f"modalities must be among {', '.join(MODALITIES)}, got {', '.join(unknown)}.")
        if self.frames < 1:
            raise ValueError(f"frames must be at least 1, got {self.frames}.")


def evaluate_model(model, data: ClipData, args: EvaluationArguments, processor=None) -> dict[str, dict[str, Any]]:
    """
    Metrics of `model` on one split, for each of `args.modalities`.

    Args:
        model: a classifier that keeps the output contract.
        data: [`ClipData`] with the split's features.
        args: [`EvaluationArguments`].
        processor: the model's processor; defaults to the data's.

    Returns:
        `{"both": {"accuracy": ..., "mAP": ..., "mAUC": ..., "d_prime": ..., "clips": ...}, "audio": ..., ...}`
    """
    accelerator = Accelerator()
    model = accelerator.prepare_model(model, evaluation_mode=True).eval()
    frame_indices = [None] if args.frames == 1 else range(args.frames)
    results = {}
    for modality in args.modalities:
        # Without a picture all frames give the same answer.
        indices = [None] if modality == "audio" else frame_indices
        passes = [_predict(accelerator, model, data, args, modality, index, processor) for index in indices]
        labels = passes[0][1]
        logits = [logits for logits, _ in passes]
        scores = logits[0] if len(logits) == 1 else average_frame_probabilities(np.stack(logits))
        kind = args.scores if len(logits) == 1 else "logits"
        results[modality] = {**event_classification_metrics(scores, labels, scores=kind), "clips": len(labels)}
    return results


@torch.inference_mode()
def _predict(accelerator: Accelerator, model, data: ClipData, args, modality: str, frame_index, processor):
    views = data.plain_views(data.evaluation_split(args.split), processor=processor, frame_index=frame_index)
    loader = DataLoader(views, batch_size=args.batch_size, collate_fn=AudioVisualCollator())
    columns = []
    for batch in tqdm(
        accelerator.prepare(loader), desc=f"Evaluate {modality}", disable=not accelerator.is_local_main_process
    ):
        inputs = {name: batch[name] for name in MODALITIES[modality] if name in batch}
        logits = model(**inputs).logits.float()
        columns.append([tensor.cpu().numpy() for tensor in accelerator.gather_for_metrics((logits, batch["labels"]))])
    logits, labels = (np.concatenate(column) for column in zip(*columns, strict=True))
    return logits, labels
