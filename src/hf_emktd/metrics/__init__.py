from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .complexity import count_macs, count_parameters, dummy_clip, measure_latency_ms
from .event_classification import (
    accuracy,
    average_frame_probabilities,
    compute_event_metrics,
    d_prime,
    event_classification_metrics,
    mean_average_precision,
    mean_roc_auc,
)
from .segmentation import (
    IGNORE_INDEX,
    compute_mask_metrics,
    frame_statistics,
    preprocess_mask_logits,
    segmentation_metrics,
)

if TYPE_CHECKING:
    from .evaluate_metric import EventClassification, SegmentationMetric

__all__ = [
    "IGNORE_INDEX",
    "EventClassification",
    "SegmentationMetric",
    "accuracy",
    "average_frame_probabilities",
    "compute_event_metrics",
    "compute_mask_metrics",
    "count_macs",
    "count_parameters",
    "d_prime",
    "dummy_clip",
    "event_classification_metrics",
    "frame_statistics",
    "mean_average_precision",
    "mean_roc_auc",
    "measure_latency_ms",
    "preprocess_mask_logits",
    "segmentation_metrics",
]


def __getattr__(name: str) -> Any:
    # on demand, see evaluate_metric.py
    if name in ("EventClassification", "SegmentationMetric"):
        from . import evaluate_metric

        return getattr(evaluate_metric, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
