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

if TYPE_CHECKING:
    from .evaluate_metric import EventClassification

__all__ = [
    "EventClassification",
    "accuracy",
    "average_frame_probabilities",
    "compute_event_metrics",
    "count_macs",
    "count_parameters",
    "d_prime",
    "dummy_clip",
    "event_classification_metrics",
    "mean_average_precision",
    "mean_roc_auc",
    "measure_latency_ms",
]


def __getattr__(name: str) -> Any:
    # on demand, see evaluate_metric.py
    if name == "EventClassification":
        from .evaluate_metric import EventClassification

        return EventClassification
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
