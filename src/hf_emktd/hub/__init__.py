from .distillation_summary import (
    DataFacts,
    DistillationSummary,
    EvaluationResult,
    ModelFacts,
    ObjectiveFacts,
    environment_versions,
    hub_id_of,
)
from .model_card import StudentCard, update_results, write_card
from .prediction import ClipPrediction, predict_clip
from .publish import PublishError, push_to_hub, save_for_hub

__all__ = [
    "ClipPrediction",
    "DataFacts",
    "DistillationSummary",
    "EvaluationResult",
    "ModelFacts",
    "ObjectiveFacts",
    "PublishError",
    "StudentCard",
    "environment_versions",
    "hub_id_of",
    "predict_clip",
    "push_to_hub",
    "save_for_hub",
    "update_results",
    "write_card",
]
