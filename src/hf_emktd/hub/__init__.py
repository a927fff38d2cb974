from .distillation_summary import (
    DataFacts,
    DistillationSummary,
    EvaluationResult,
    ModelFacts,
    ObjectiveFacts,
    environment_versions,
    hub_id_of,
)
from .mask_pictures import draw_comparison, write_overlay, write_strip
from .model_card import StudentCard, update_results, write_card
from .prediction import ClipPrediction, predict_clip
from .publish import PublishError, prepare_repository, push_shards, push_to_hub, save_for_hub
from .segmentation import ClipSegmentation, segment_clip

__all__ = [
    "ClipPrediction",
    "ClipSegmentation",
    "DataFacts",
    "DistillationSummary",
    "EvaluationResult",
    "ModelFacts",
    "ObjectiveFacts",
    "PublishError",
    "StudentCard",
    "draw_comparison",
    "environment_versions",
    "hub_id_of",
    "predict_clip",
    "prepare_repository",
    "push_shards",
    "push_to_hub",
    "save_for_hub",
    "segment_clip",
    "update_results",
    "write_card",
    "write_overlay",
    "write_strip",
]
