"""From a teacher and a budget to students, the most promising first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..data.collators import AudioVisualCollator
from ..metrics import count_macs
from ..training.clip_data import TRAIN, ClipData
from .budget import Budget
from .candidates import Candidate, list_candidates, on_meta, spread
from .measurement import measure_latency, measure_peak_memory
from .training_free_score import TEACHER_WEIGHTS, TrainingFreeScore, score_students


@dataclass
class SearchArguments:
    """
    How students are measured and scored.

    Raises:
        ValueError: for a number below 1, a batch of one clip, or unknown teacher weights.
    """

    candidates: int = field(
        default=64,
        metadata={"help": "Students measured at most, spread over those that their parameters and MACs admit."},
    )
    device: str = field(default="cpu", metadata={"help": "Where students are measured and scored: cpu, cuda."})
    threads: int | None = field(
        default=None, metadata={"help": "CPU threads of a measured student; by default torch's choice here."}
    )
    repetitions: int = field(
        default=20, metadata={"help": "Timed forward passes, of which the median is the latency."}
    )
    score_batches: int = field(default=2, metadata={"help": "Batches of training clips for the score."})
    score_batch_size: int = field(default=32, metadata={"help": "Clips of each of them."})
    initialisations: int = field(default=5, metadata={"help": "Random weights over which the score is averaged."})
    teacher_weights: str = field(
        default="random",
        metadata={"help": "Of the teacher in the score: random, as in DisWOT's code, or trained, as it is."},
    )

    def __post_init__(self) -> None:
        for name in ("candidates", "threads", "repetitions", "score_batches", "initialisations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if self.score_batch_size < 2:
            raise ValueError(
                f"score_batch_size must be at least 2: one clip has no relations; got {self.score_batch_size}."
            )
        if self.teacher_weights not in TEACHER_WEIGHTS:
            raise ValueError(
                f"teacher_weights must be one of {', '.join(TEACHER_WEIGHTS)}, got {self.teacher_weights!r}."
            )


@dataclass(frozen=True)
class MeasuredStudent:
    """
    A student within the budget.

    Args:
        candidate: its config and parameters.
        macs: multiply-accumulates of one clip.
        latency_ms: median milliseconds of one clip.
        memory_mb: peak megabytes of one clip, `None` where the system does not tell.
    """

    candidate: Candidate
    macs: int
    latency_ms: float
    memory_mb: float | None


@dataclass(frozen=True)
class Suggestion:
    """A student within the budget and its training-free score."""

    student: MeasuredStudent
    score: TrainingFreeScore


def suggest_students(
    teacher: PreTrainedModel, batches: Sequence[dict[str, Tensor]], budget: Budget, args: SearchArguments
) -> list[Suggestion]:
    """
    Students of `teacher` within `budget`, the highest score first.

    What is cheap to know goes first: parameters and MACs of all candidates, then latency and memory of at most
    `args.candidates`, then the score of those still within the budget.

    Args:
        batches: for the score, [`scoring_batches`].

    Raises:
        ValueError: if no candidate is within the budget.
    """
    students = measure_students(_affordable(teacher, budget), budget, args)
    if not students:
        raise ValueError(
            "no measured student is within --max_latency_ms and --max_memory_mb; raise them, or measure more with "
            "--candidates."
        )
    teacher.to(args.device)
    scores = score_students(
        teacher,
        [student.candidate.config for student in students],
        [{name: tensor.to(args.device) for name, tensor in batch.items()} for batch in batches],
        initialisations=args.initialisations,
        teacher_weights=args.teacher_weights,
    )
    pairs = [Suggestion(*pair) for pair in zip(students, scores, strict=True)]
    return sorted(pairs, key=lambda pair: -pair.score.total)


def scoring_batches(data: ClipData, args: SearchArguments, seed: int = 0) -> list[dict[str, Tensor]]:
    """
    `args.score_batches` batches of random training clips, seen as in evaluation; fewer and smaller ones where clips
    are few, but no clip twice and no batch of a single clip.
    """
    views, collate = data.plain_views(TRAIN), AudioVisualCollator()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(views), generator=generator)[: args.score_batches * args.score_batch_size]
    chunks = [chunk.tolist() for chunk in order.split(args.score_batch_size) if len(chunk) > 1]
    return [collate([views[index] for index in chunk]) for chunk in chunks]


def measure_students(candidates: Sequence[Candidate], budget: Budget, args: SearchArguments) -> list[MeasuredStudent]:
    """
    Those of at most `args.candidates` that keep within latency and memory, measured one after the other.

    Raises:
        ValueError: if memory is limited and the system does not tell it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(args.threads or threads)
    chosen = tqdm(spread(candidates, args.candidates), desc="Measure")
    students = [_measure(candidate, budget, args) for candidate in chosen]
    torch.set_num_threads(threads)
    return [student for student in students if student is not None]


def _measure(candidate: Candidate, budget: Budget, args: SearchArguments) -> MeasuredStudent | None:
    """`None` if the student is beyond the budget."""
    latency = measure_latency(candidate.config, args.device, args.repetitions)
    if not budget.admits(latency_ms=latency):
        return None
    memory = measure_peak_memory(candidate.config, args.device)
    if memory is None and budget.max_memory_mb is not None:
        raise ValueError("the memory of a process on the CPU is known on Linux only; leave --max_memory_mb out.")
    if not budget.admits(memory_mb=memory):
        return None
    return MeasuredStudent(candidate, count_macs(on_meta(candidate.config)), latency, memory)


def _affordable(teacher: PreTrainedModel, budget: Budget) -> list[Candidate]:
    candidates = list_candidates(teacher.config)
    affordable = [candidate for candidate in candidates if budget.admits(parameters=candidate.parameters)]
    if not affordable:
        raise ValueError(
            f"no student of this teacher has at most {budget.parameters:,} parameters; the smallest that is searched "
            f"has {candidates[-1].parameters:,}."
        )
    if budget.macs is None:
        return affordable
    macs = [count_macs(on_meta(candidate.config)) for candidate in tqdm(affordable, desc="Count MACs")]
    if min(macs) > budget.macs:
        raise ValueError(
            f"no student within the other limits has at most {budget.macs:,} MACs; the fewest are {min(macs):,}."
        )
    return [candidate for candidate, cost in zip(affordable, macs, strict=True) if budget.admits(macs=cost)]
