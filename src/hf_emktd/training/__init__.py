"""Trainers, and what a training script needs around them."""

from .arguments import AudioVisualTrainingArguments, DistillationArguments
from .clip_data import ClipData, DataArguments, check_labels
from .command_line import parse_arguments
from .entropy_monitor_trainer import EntropyMonitorArguments, EntropyMonitorTrainer, train_monitor
from .evaluation import EvaluationArguments, evaluate_model
from .finish import command_line, data_facts, evaluation_results, hyper_parameters, publish_run, save_run, to_json
from .loading import MONITOR_FOLDER, find_monitor, load_model, load_monitor
from .objectives import build_objectives
from .students import build_student, build_student_config, derive_config, parse_overrides, student_processor
from .trainer import AudioVisualTrainer, EMKTDTrainer, task_loss
from .views import ClipSampler, ClipViews

__all__ = [
    "MONITOR_FOLDER",
    "AudioVisualTrainer",
    "AudioVisualTrainingArguments",
    "ClipData",
    "ClipSampler",
    "ClipViews",
    "DataArguments",
    "DistillationArguments",
    "EMKTDTrainer",
    "EntropyMonitorArguments",
    "EntropyMonitorTrainer",
    "EvaluationArguments",
    "build_objectives",
    "build_student",
    "build_student_config",
    "check_labels",
    "command_line",
    "data_facts",
    "derive_config",
    "evaluate_model",
    "evaluation_results",
    "find_monitor",
    "hyper_parameters",
    "load_model",
    "load_monitor",
    "parse_arguments",
    "parse_overrides",
    "publish_run",
    "save_run",
    "student_processor",
    "task_loss",
    "to_json",
    "train_monitor",
]
