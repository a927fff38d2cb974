"""Metrics of sound-guided segmentation: MJ (mean IoU) and MF (F-measure), as AVSBench's `utils/utility.py` has them.

A frame is first reduced to a few hundred numbers ([`frame_statistics`]), so that a test set accumulates, and travels
between processes, without its maps. All metrics follow from those ([`segmentation_metrics`]). The same numbers as an
`evaluate.Metric` are in `evaluate_metric.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor
    from transformers import EvalPrediction

PROTOCOLS = ("avsbench", "dataset")
IGNORE_INDEX = -100

# The official constants: thresholds and weight of the F curve, and the guard of the IoU.
NUM_THRESHOLDS = 255
BETA_SQUARED = 0.3
EPSILON = 1e-7

# What follows the F curve in the statistics of a frame.
_IOU, _FOREGROUND, _LABELLED, _SHARE, _PEAK = range(NUM_THRESHOLDS, NUM_THRESHOLDS + 5)
NUM_STATISTICS = NUM_THRESHOLDS + 5


@torch.no_grad()
def frame_statistics(logits: Tensor, labels: Tensor) -> Tensor:
    """Everything the metrics need of a frame, in 260 numbers.

    Args:
        logits (`torch.Tensor` of shape `(..., height, width)`):
            The model's, before the sigmoid, which is taken in float32.
        labels (`torch.Tensor` of the same shape):
            1 sounding, 0 not; -100 in every pixel of a frame without label.

    Returns:
        `torch.Tensor` of shape `(..., 260)`, float32, on the device of `logits`: the F-measure at each of the 255
        thresholds, the IoU, whether anything sounds, whether the frame has a label, the share of pixels that the model
        claims (sigmoid above one half) and its highest probability.

    Raises:
        ValueError: shapes that differ, or labels other than 0, 1 and whole frames of -100.
    """
    _check_maps(logits, labels)
    probabilities = logits.float().sigmoid().reshape(-1, logits.shape[-2:].numel())
    targets = labels.to(logits.device).reshape(probabilities.shape)
    sounding, claimed = targets == 1, probabilities > 0.5
    others = [
        _iou(claimed, sounding),
        sounding.any(dim=-1),
        (targets != IGNORE_INDEX).all(dim=-1),
        claimed.float().mean(dim=-1),
        probabilities.amax(dim=-1),
    ]
    statistics = [_f_curves(probabilities, sounding), *(values.float()[:, None] for values in others)]
    return torch.cat(statistics, dim=-1).view(*logits.shape[:-2], NUM_STATISTICS)


def segmentation_metrics(
    statistics: ArrayLike, protocol: str = "avsbench", clips_per_batch: int = 1
) -> dict[str, float]:
    """All metrics of one evaluation, from the statistics of its frames. Frames without label count nowhere.

    MJ is the mean IoU of the frames, thresholded at one half; where nothing sounds, IoU is the share of pixels that
    the model rightly leaves alone. MF is the highest value of the mean F curve (beta squared 0.3) of the frames in
    which something sounds. Both are first taken over a batch of clips and then averaged, so **MF depends on the test
    batch**: the maximum over thresholds is chosen for each batch anew. Published numbers mix batches of 1 clip
    (AVSBench, the default here), 2 (AVSegFormer), 16 (UFE-AVS on S4) and 4 (UFE-AVS on MS3).

    Args:
        statistics (`(clips, frames, 260)` floats, numpy or torch):
            [`frame_statistics`] of all clips, in the order of the data set.
        protocol (`str`, *optional*, defaults to `"avsbench"`):
            `"avsbench"` averages over batches, as the official `test.py` does; a batch in which nothing sounds gives
            0 to MF. `"dataset"` takes all frames as one batch: one threshold for all, whatever the order.
        clips_per_batch (`int`, *optional*, defaults to 1):
            Test batch of `"avsbench"`; the last one may be smaller and weighs as much as the others.

    Returns:
        `dict`: `MJ` and `MF` in [0, 1], `mask_share`, the mean share of pixels that the model claims,
        `peak_probability`, the mean of the frames' highest probability, and the numbers of labelled `clips` and
        `frames`. `MF` is NaN where nothing sounds in any frame. (The official code says 0.)

    Raises:
        ValueError: statistics of a wrong shape, without a labelled frame or from logits that are NaN, an unknown
            `protocol`, or `clips_per_batch` below 1.
    """
    _check_protocol(protocol, clips_per_batch)
    clips = _labelled_frames(statistics)
    size = clips_per_batch if protocol == "avsbench" else len(clips)
    batches = [torch.cat(clips[start : start + size]) for start in range(0, len(clips), size)]
    batches = [batch for batch in batches if len(batch)]
    frames = torch.cat(batches)
    return {
        "MJ": _mean([batch[:, _IOU].mean() for batch in batches]),
        "MF": _mean([_best_f(batch) for batch in batches]) if frames[:, _FOREGROUND].any() else math.nan,
        "mask_share": frames[:, _SHARE].mean().item(),
        "peak_probability": frames[:, _PEAK].mean().item(),
        "clips": sum(len(clip) > 0 for clip in clips),
        "frames": len(frames),
    }


def preprocess_mask_logits(logits: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """[`frame_statistics`], in the form `Trainer(preprocess_logits_for_metrics=...)` takes.

    The maps are gone before the Trainer gathers them from the processes. Where the model returned more than logits,
    they come first.
    """
    return frame_statistics(logits[0] if isinstance(logits, tuple) else logits, labels)


def compute_mask_metrics(eval_prediction: EvalPrediction) -> dict[str, float]:
    """[`segmentation_metrics`] in the form `Trainer(compute_metrics=...)` takes, after [`preprocess_mask_logits`]."""
    return segmentation_metrics(eval_prediction.predictions)


def _f_curves(probabilities: Tensor, sounding: Tensor) -> Tensor:
    """F-measure at each threshold, `(frames, 255)`, from one histogram a frame in place of 255 comparisons."""
    # in float32, as the official code compares them; the last one rounds to 1
    thresholds = torch.linspace(0, 1 - 1e-10, NUM_THRESHOLDS).to(probabilities.device)
    histograms = _histograms(torch.bucketize(probabilities, thresholds, right=True), sounding)
    # a pixel that reaches n thresholds is claimed at the first n of them
    claimed = histograms.flip(-1).cumsum(-1).flip(-1)[..., 1:].float()
    mistakes, hits = claimed.unbind(dim=1)
    precision = hits / (mistakes + hits + 1e-20)
    recall = hits / (sounding.sum(dim=-1, keepdim=True) + 1e-20)
    f_measure = (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
    return f_measure.nan_to_num(0.0)


def _histograms(reached: Tensor, sounding: Tensor) -> Tensor:
    """Pixels by label and by the number of thresholds they reach, `(frames, 2, 256)`."""
    size = NUM_THRESHOLDS + 1
    frames = torch.arange(len(reached), device=reached.device)[:, None]
    bins = size * (2 * frames + sounding) + reached
    return torch.bincount(bins.flatten(), minlength=2 * size * len(reached)).view(-1, 2, size)


def _iou(claimed: Tensor, sounding: Tensor) -> Tensor:
    empty = ~sounding.any(dim=-1)
    intersection = torch.where(empty, (~claimed).sum(dim=-1), (claimed & sounding).sum(dim=-1))
    union = torch.where(empty, sounding.shape[-1], (claimed | sounding).sum(dim=-1))
    return intersection.float() / (union.float() + EPSILON)


def _best_f(frames: Tensor) -> Tensor:
    """The highest value of the mean F curve of the frames in which something sounds; 0 where there are none."""
    heard = frames[frames[:, _FOREGROUND] > 0]
    return heard[:, :NUM_THRESHOLDS].mean(dim=0).amax() if len(heard) else frames.new_zeros(())


def _labelled_frames(statistics: ArrayLike) -> list[Tensor]:
    """For each clip the statistics of its labelled frames, `(frames, 260)` in float64."""
    values = torch.as_tensor(statistics).detach().cpu().double()
    if values.ndim != 3 or values.shape[-1] != NUM_STATISTICS:
        raise ValueError(
            f"statistics must be (clips, frames, {NUM_STATISTICS}) as `frame_statistics` makes them, got shape "
            f"{tuple(values.shape)}. With transformers' Trainer pass "
            "`preprocess_logits_for_metrics=preprocess_mask_logits`."
        )
    # a Trainer pads with -100, which is no label either
    labelled = values[..., _LABELLED] > 0
    if not labelled.any():
        raise ValueError(f"none of the {labelled.numel()} frames has a label, so there is nothing to measure.")
    broken = (values.isnan().any(dim=-1) & labelled).any(dim=-1).nonzero()
    if len(broken):
        raise ValueError(
            f"logits of {len(broken)} of {len(values)} clips are NaN, first of clip {broken[0].item()}. The model has "
            "diverged or a clip's features are broken: look at that clip's inputs, then at the loss."
        )
    return [clip[known] for clip, known in zip(values, labelled, strict=True)]


def _check_maps(logits: Tensor, labels: Tensor) -> None:
    if logits.shape != labels.shape or logits.ndim < 2 or 0 in logits.shape:
        raise ValueError(
            "logits and labels must both be (..., height, width) with at least one frame, got shapes "
            f"{tuple(logits.shape)} and {tuple(labels.shape)}. Masks of another size are resized by the processor."
        )
    ignored = labels == IGNORE_INDEX
    if not (ignored | (labels == 0) | (labels == 1)).all():
        raise ValueError(
            f"labels must be 0, 1 or {IGNORE_INDEX}, got values from {labels.min():g} to {labels.max():g}. A mask "
            "of 0 and 255 is divided by 255 first."
        )
    if (ignored.any(-1).any(-1) != ignored.all(-1).all(-1)).any():
        raise ValueError(
            f"a frame has {IGNORE_INDEX} in some of its pixels only; the metrics leave out whole frames. Give every "
            "pixel of a labelled frame 0 or 1."
        )


def _check_protocol(protocol: str, clips_per_batch: int) -> None:
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {PROTOCOLS}, got {protocol!r}.")
    if clips_per_batch < 1:
        raise ValueError(f"clips_per_batch must be at least 1, got {clips_per_batch}.")


def _mean(values: list[Tensor]) -> float:
    return torch.stack(values).mean().item()
