"""Evaluation of masks on a split: with the clips' own sound, and the controls that show whether a model listens."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from ..data.collators import AudioVisualCollator, NamingCollator
from ..metrics import preprocess_mask_logits, segmentation_metrics
from .clip_data import SceneData
from .evaluation_arguments import CONTROLS, EvaluationArguments
from .finite_losses import check_finite

# what can be said without a true mask: in silence nothing sounds, whatever the labels show
WITHOUT_TRUTH = ("mask_share", "peak_probability", "clips", "frames")


def evaluate_masks(
    model: PreTrainedModel, data: SceneData, args: EvaluationArguments, processor: ProcessorMixin | None = None
) -> dict[str, dict[str, Any]]:
    """
    MJ and MF of `model` on one split, and the controls of `args.controls`; every rank runs a share and gets the
    whole. Only some hundred numbers of each frame are kept.

    Returns:
        `{"both": {"MJ": ..., "MF": ..., "mask_share": ..., "peak_probability": ..., "clips": ...}, ...}`:
        under `"swapped_sound"` the same with the sound of another clip, which a model that listens must fail;
        under `"silence"` the share of the picture that is still claimed and the mean peak probability.

    Raises:
        ValueError: if `args.frames` asks for an average over frames: a mask belongs to its own frame.
    """
    if args.frames != 1:
        raise ValueError(f"frames={args.frames} averages the scores of events; masks are those of each frame. Use 1.")
    accelerator = Accelerator()
    if model.device != accelerator.device:
        model.to(accelerator.device)
    model.eval()
    results = {}
    for condition in ("both", *args.controls):
        statistics = _statistics(accelerator, model, data, args, condition, processor)
        metrics = segmentation_metrics(statistics, protocol=args.protocol)
        results[condition] = {name: metrics[name] for name in WITHOUT_TRUTH} if condition == "silence" else metrics
    return results


@torch.inference_mode()
def _statistics(
    accelerator: Accelerator,
    model: PreTrainedModel,
    data: SceneData,
    args: EvaluationArguments,
    condition: str,
    processor: ProcessorMixin | None,
) -> Tensor:
    """Of the whole split, on every rank: `(clips, frames, statistics)`."""
    split = data.evaluation_split(args.split)
    views = data.plain_views(split, processor=processor, sound=CONTROLS.get(condition, "own"))
    collator = NamingCollator(AudioVisualCollator())
    loader = accelerator.prepare(DataLoader(views, batch_size=args.batch_size, collate_fn=collator))
    parts = []
    for batch in tqdm(loader, desc=f"Evaluate {condition}", disable=not accelerator.is_local_main_process):
        with accelerator.autocast():
            inputs = {name: batch[name].to(model.dtype) for name in ("input_values", "pixel_values")}
            logits = model(**inputs).logits.float()
        check_finite("the model's answer is", [logits], batch.get("clip_ids"))
        statistics = preprocess_mask_logits(logits, batch["labels"])
        parts.append(accelerator.gather_for_metrics(statistics).cpu())
    return torch.cat(parts)
