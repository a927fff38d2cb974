"""Trainers, and what a training script needs around them."""

from .arguments import AudioVisualTrainingArguments, DistillationArguments
from .cached_views import CachedViews, SignalCollator
from .clip_data import ClipData, DataArguments, SceneData, augmentation_for, check_labels, open_clips
from .command_line import parse_arguments
from .entropy_monitor_trainer import EntropyMonitorArguments, EntropyMonitorTrainer, train_monitor
from .evaluation import check_modalities, deciding_scores, evaluate_model
from .evaluation_arguments import EvaluationArguments
from .families import FAMILIES, family_for, family_of
from .finish import (
    command_line,
    data_facts,
    evaluation_results,
    hyper_parameters,
    prepare_push,
    publish_run,
    save_run,
    to_json,
)
from .kernel_trials import KernelTrial, check_kernel_trials, choose_kernel, is_kernel_open
from .loading import MONITOR_FOLDER, find_monitor, load_config, load_model, load_monitor
from .lora import LoraArguments, add_adapters, base_name, merge_adapters, without_adapters
from .objectives import build_objectives
from .students import (
    build_student,
    build_student_config,
    check_body,
    check_parts,
    derive_config,
    has_weights,
    inherit,
    parse_overrides,
    student_processor,
)
from .tasks import TASKS, task_loss, task_of_config
from .teacher_cache import CacheManifest, TeacherCache, cache_source
from .teacher_cache_writer import CacheEstimate, estimate_cache, plan_cache, verify_cache, write_teacher_cache
from .trainer import AudioVisualTrainer, EMKTDTrainer
from .views import ClipSampler, ClipViews
from .weight_inheritance import check_inheritance, inherit_weights

__all__ = [
    "FAMILIES",
    "MONITOR_FOLDER",
    "TASKS",
    "AudioVisualTrainer",
    "AudioVisualTrainingArguments",
    "CacheEstimate",
    "CacheManifest",
    "CachedViews",
    "ClipData",
    "ClipSampler",
    "ClipViews",
    "DataArguments",
    "DistillationArguments",
    "EMKTDTrainer",
    "EntropyMonitorArguments",
    "EntropyMonitorTrainer",
    "EvaluationArguments",
    "KernelTrial",
    "LoraArguments",
    "SceneData",
    "SignalCollator",
    "TeacherCache",
    "add_adapters",
    "augmentation_for",
    "base_name",
    "build_objectives",
    "build_student",
    "build_student_config",
    "cache_source",
    "check_body",
    "check_inheritance",
    "check_kernel_trials",
    "check_labels",
    "check_modalities",
    "check_parts",
    "choose_kernel",
    "command_line",
    "data_facts",
    "deciding_scores",
    "derive_config",
    "estimate_cache",
    "evaluate_model",
    "evaluation_results",
    "family_for",
    "family_of",
    "find_monitor",
    "has_weights",
    "hyper_parameters",
    "inherit",
    "inherit_weights",
    "is_kernel_open",
    "load_config",
    "load_model",
    "load_monitor",
    "merge_adapters",
    "open_clips",
    "parse_arguments",
    "parse_overrides",
    "plan_cache",
    "prepare_push",
    "publish_run",
    "save_run",
    "student_processor",
    "task_loss",
    "task_of_config",
    "to_json",
    "train_monitor",
    "verify_cache",
    "without_adapters",
    "write_teacher_cache",
]
