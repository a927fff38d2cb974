"""Metrics of audio-visual event classification: accuracy, mAP, mAUC and d-prime, as CAV-MAE and VGGSound define them.

Everything here is a plain function of scores and labels. The same numbers as an `evaluate.Metric` are in
`evaluate_metric.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from transformers import EvalPrediction

SCORES = ("logits", "softmax")


def event_classification_metrics(
    scores_or_logits: ArrayLike, labels: ArrayLike, scores: str = "logits"
) -> dict[str, float]:
    """All metrics of one evaluation.

    Args:
        scores_or_logits (`(clips, classes)` floats, numpy or torch):
            The model's logits, or any scores that grow with confidence.
        labels (`(clips,)` ints or `(clips, classes)` multi-hot 0/1):
            Class ids, or one row of 0 and 1 for each clip.
        scores (`str`, *optional*, defaults to `"logits"`):
            What average precision and AUC rank the clips by. `"logits"` takes `scores_or_logits` as they come, as
            CAV-MAE's `src/utilities/stats.py` does; `"softmax"` applies a softmax over the classes first, as
            VGGSound's `eval.py` does. Accuracy is the same for both, the other three are not. Probabilities that are
            averaged over frames already ([`average_frame_probabilities`]) go in with `"logits"`.

    Returns:
        `dict`: `accuracy`, `mAP`, `mAUC` in [0, 1], `d_prime`, and `classes_without_positives`, the number of classes
        that no clip carries and that are therefore left out of mAP and mAUC. (The official code stores an AUC of -1
        for such a class, which pulls the mean down.) `mAUC` and `d_prime` are NaN where no class has both positives
        and negatives; `d_prime` is infinite where mAUC is 1.

    Raises:
        ValueError: scores or labels of a wrong shape, not finite, out of range, or an unknown `scores`.
    """
    score_matrix = _check_scores(scores_or_logits)
    targets = _multi_hot(labels, score_matrix.shape)
    if scores not in SCORES:
        raise ValueError(f"scores must be one of {SCORES}, got {scores!r}.")
    if scores == "softmax":
        score_matrix = _softmax(score_matrix)
    auc = mean_roc_auc(score_matrix, targets)
    return {
        "accuracy": accuracy(score_matrix, targets),
        "mAP": mean_average_precision(score_matrix, targets),
        "mAUC": auc,
        "d_prime": d_prime(auc),
        "classes_without_positives": int((targets.sum(axis=0) == 0).sum()),
    }


def accuracy(scores: ArrayLike, labels: ArrayLike) -> float:
    """Share of clips whose highest score is a true class.

    With one label per clip this is the official accuracy, argmax against argmax. With several, any of them counts;
    the official argmax over a multi-hot row would count only the one with the lowest id.

    Args:
        scores (`(clips, classes)` floats):
            Logits or probabilities.
        labels (`(clips,)` ints or `(clips, classes)` multi-hot 0/1):
            Class ids or multi-hot rows.
    """
    score_matrix = _check_scores(scores)
    targets = _multi_hot(labels, score_matrix.shape)
    return float(targets[np.arange(len(targets)), score_matrix.argmax(axis=1)].mean())


def mean_average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Mean of `average_precision_score` over the classes that have positives (mAP). Arguments as `accuracy`."""
    score_matrix = _check_scores(scores)
    targets = _multi_hot(labels, score_matrix.shape)
    present = np.flatnonzero(targets.any(axis=0))
    return _mean([average_precision_score(targets[:, k], score_matrix[:, k]) for k in present])


def mean_roc_auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Mean area under the ROC curve (mAUC) over the classes that have both positives and negatives.

    NaN if there is no such class, for instance when all clips carry the same single label. Arguments as `accuracy`.
    """
    score_matrix = _check_scores(scores)
    targets = _multi_hot(labels, score_matrix.shape)
    ranked = np.flatnonzero(targets.any(axis=0) & ~targets.all(axis=0))
    return _mean([roc_auc_score(targets[:, k], score_matrix[:, k]) for k in ranked])


def d_prime(auc: float) -> float:
    """Sensitivity index `sqrt(2) * ppf(auc)`: the distance of two unit normals with that area under the curve."""
    return float(math.sqrt(2) * norm.ppf(auc))


def average_frame_probabilities(logits: ArrayLike) -> np.ndarray:
    """Softmax of each frame's logits, averaged over the frames: CAV-MAE's ten-frame evaluation.

    Args:
        logits (`(frames, clips, classes)` floats, numpy or torch):
            One pass over the clips for each frame position.

    Returns:
        `np.ndarray` of shape `(clips, classes)`, float64, rows summing to one.
    """
    frame_logits = _to_numpy(logits)
    if frame_logits.ndim != 3 or not len(frame_logits):
        raise ValueError(
            f"logits must be (frames, clips, classes) with at least one frame, got shape {frame_logits.shape}."
        )
    return _softmax(frame_logits).mean(axis=0)


def compute_event_metrics(eval_prediction: EvalPrediction) -> dict[str, float]:
    """[`event_classification_metrics`] over raw logits, in the form `Trainer(compute_metrics=...)` takes.

    Where the model returned more than logits the predictions are a tuple; logits come first.
    """
    predictions = eval_prediction.predictions
    logits = predictions[0] if isinstance(predictions, tuple) else predictions
    return event_classification_metrics(logits, eval_prediction.label_ids)


def _to_numpy(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        # numpy has no bfloat16
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def _check_scores(scores: ArrayLike) -> np.ndarray:
    matrix = _to_numpy(scores)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"scores must be (clips, classes) with at least one of each, got shape {matrix.shape}.")
    bad_clips = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad_clips):
        raise ValueError(
            f"scores of {len(bad_clips)} of {len(matrix)} clips are NaN or infinite, first in row {bad_clips[0]}. "
            "The model has diverged or a clip's features are broken: look at that clip's inputs, then at the loss."
        )
    return matrix


def _multi_hot(labels: ArrayLike, shape: tuple[int, int]) -> np.ndarray:
    """Labels as a boolean `(clips, classes)` matrix."""
    values = _to_numpy(labels)
    if values.shape == shape:
        if not np.isin(values, (0, 1)).all():
            raise ValueError("multi-hot labels must be 0 or 1; soft labels (mixup) have no average precision.")
        return values.astype(bool)
    if values.shape != shape[:1]:
        raise ValueError(
            f"labels must have shape {shape[:1]} (class ids) or {shape} (multi-hot) to fit scores of shape {shape}, "
            f"got {values.shape}."
        )
    if (values != np.floor(values)).any() or values.min() < 0 or values.max() >= shape[1]:
        raise ValueError(
            f"labels must be whole class ids from 0 to {shape[1] - 1} (scores have {shape[1]} classes), "
            f"got values from {values.min():g} to {values.max():g}."
        )
    return values[:, None] == np.arange(shape[1])


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan
