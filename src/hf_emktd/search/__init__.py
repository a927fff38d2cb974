"""Which student: configs within a budget, measured here and ranked without training."""

from .budget import Budget, parse_amount
from .candidates import Candidate, list_candidates, spread
from .measurement import measure_latency, measure_peak_memory
from .rank_correlation import RankCorrelation, rank_correlations
from .report import distill_command, draw, format_table, measuring_conditions, rivals, to_dict
from .suggestion import MeasuredStudent, SearchArguments, Suggestion, scoring_batches, suggest_students
from .training_free_score import TEACHER_WEIGHTS, TrainingFreeScore, score_students

__all__ = [
    "TEACHER_WEIGHTS",
    "Budget",
    "Candidate",
    "MeasuredStudent",
    "RankCorrelation",
    "SearchArguments",
    "Suggestion",
    "TrainingFreeScore",
    "distill_command",
    "draw",
    "format_table",
    "list_candidates",
    "measure_latency",
    "measure_peak_memory",
    "measuring_conditions",
    "parse_amount",
    "rank_correlations",
    "rivals",
    "score_students",
    "scoring_batches",
    "spread",
    "suggest_students",
    "to_dict",
]
