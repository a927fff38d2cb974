"""Evaluation on a split: of a classifier with both modalities or one, from one frame or several; of masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.utils import logging

from ..data.collators import AudioVisualCollator, NamingCollator
from ..metrics import average_frame_probabilities, event_classification_metrics
from .clip_data import ClipData, SceneData
from .evaluation_arguments import MODALITIES, EvaluationArguments
from .finite_losses import check_finite
from .mask_evaluation import evaluate_masks
from .tasks import task_of_config

logger = logging.get_logger(__name__)


def evaluate_model(
    model: PreTrainedModel, data: ClipData, args: EvaluationArguments, processor: ProcessorMixin | None = None
) -> dict[str, dict[str, Any]]:
    """
    Metrics of `model` on one split, for each of `args.modalities` that its clips have and it takes; every rank runs a
    share and gets the whole. Of a model for masks those of [`~training.mask_evaluation.evaluate_masks`].

    Args:
        model: keeps the output contract; it is moved to the device and left in eval mode.
        data: [`ClipData`] with the split's features.
        args: [`EvaluationArguments`].
        processor: the model's processor; defaults to the data's.

    Returns:
        `{"both": {"accuracy": ..., "mAP": ..., "mAUC": ..., "d_prime": ..., "clips": ...}, "audio": ..., ...}`

    Raises:
        ValueError: if the model or the clips have none of `args.modalities`.
    """
    if isinstance(data, SceneData):
        return evaluate_masks(model, data, args, processor)
    accelerator = Accelerator()
    if model.device != accelerator.device:
        model.to(accelerator.device)
    model.eval()
    results = {}
    for modality in _present_modalities(model, data, args):
        # without a picture all frames give the same answer
        indices = [None] if modality == "audio" else frame_indices(args.frames, data.args.num_frames)
        passes = [_predict(accelerator, model, data, args, modality, index, processor) for index in indices]
        logits, labels = np.stack([logits for logits, _ in passes]), passes[0][1]
        if len(passes) == 1:
            metrics = event_classification_metrics(logits[0], labels, scores=args.scores)
        else:
            metrics = event_classification_metrics(average_frame_probabilities(logits), labels)
        results[modality] = {**metrics, "clips": len(labels)}
    return results


def deciding_scores(
    model: PreTrainedModel, data: ClipData, split: str, processor: ProcessorMixin | None = None, batch_size: int = 64
) -> tuple[float, float]:
    """
    The task's `deciding_metrics` of `model` on one split, with all that it takes; the same on every rank.

    Raises:
        ValueError: if the clips lack something that the model takes.
    """
    modality = _own_modalities(model.config)[0]
    args = EvaluationArguments(split=split, modalities=[modality], controls=["none"], batch_size=batch_size)
    metrics = evaluate_model(model, data, args, processor)[modality]
    first, second = (metrics[name] for name in task_of_config(model.config).deciding_metrics)
    return first, second


def frame_indices(frames: int, stored: int) -> list[int | None]:
    """
    Evenly spaced indices of `frames` out of `stored` frames, or of all where fewer are stored; `[None]`, the middle
    frame of each clip, for one.
    """
    if frames == 1:
        return [None]
    frames = min(frames, stored)
    return [(2 * index + 1) * stored // (2 * frames) for index in range(frames)]


def check_modalities(args: EvaluationArguments, *configs: PreTrainedConfig) -> None:
    """Raises `ValueError` if one of the models takes none of `args.modalities`."""
    for config in configs:
        own = _own_modalities(config)
        if args.modalities is not None and not set(args.modalities) & set(own):
            raise ValueError(
                f"modalities: a model that takes {', '.join(config.input_shapes)} cannot be evaluated with "
                f"{', '.join(args.modalities)}, only with {', '.join(own)}."
            )


def _own_modalities(config: PreTrainedConfig) -> list[str]:
    return [name for name, inputs in MODALITIES.items() if set(inputs) <= set(config.input_shapes)]


def _present_modalities(model: PreTrainedModel, data: ClipData, args: EvaluationArguments) -> list[str]:
    """Of `args.modalities` those whose inputs the model takes and the split has: a table may hold sounds only."""
    check_modalities(args, model.config)
    own = _own_modalities(model.config)
    clip = data.split(data.evaluation_split(args.split))[0]
    columns = {"input_values": clip["fbank"], "pixel_values": clip["frames"]}
    given = {name for name in own if all(columns[column] is not None for column in MODALITIES[name])}
    asked = own if args.modalities is None else args.modalities
    present, absent = [name for name in asked if name in given], [name for name in asked if name not in given]
    if not present:
        raise ValueError(
            f"the clips of {data.args.dataset} have no input for {', '.join(absent)}; try other modalities."
        )
    if absent:
        logger.warning(f"There is no input for {', '.join(absent)}: evaluated with {', '.join(present)} only.")
    return present


@torch.inference_mode()
def _predict(
    accelerator: Accelerator,
    model: PreTrainedModel,
    data: ClipData,
    args: EvaluationArguments,
    modality: str,
    frame_index: int | None,
    processor: ProcessorMixin | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits `(clips, classes)` and labels `(clips,)` of the whole split, on every rank."""
    views = data.plain_views(data.evaluation_split(args.split), processor=processor, frame_index=frame_index)
    collator = NamingCollator(AudioVisualCollator())
    loader = accelerator.prepare(DataLoader(views, batch_size=args.batch_size, collate_fn=collator))
    columns = []
    for batch in tqdm(loader, desc=f"Evaluate {modality}", disable=not accelerator.is_local_main_process):
        with accelerator.autocast():
            inputs = {name: batch[name].to(model.dtype) for name in MODALITIES[modality]}
            logits = model(**inputs).logits.float()
        check_finite("the model's answer is", [logits], batch.get("clip_ids"))
        columns.append([tensor.cpu().numpy() for tensor in accelerator.gather_for_metrics((logits, batch["labels"]))])
    logits, labels = (np.concatenate(column) for column in zip(*columns, strict=True))
    return logits, labels
