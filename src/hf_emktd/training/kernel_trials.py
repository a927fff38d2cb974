"""`--ktd_kernel auto`: runs that the validation split judges choose the kernel together with its weight."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate.utils import broadcast_object_list, parse_flag_from_env

from ..distillation.kernels import KERNELS, TokenKernel
from ..distillation.objectives import DistillationObjective
from ..whole_files import write_whole
from .arguments import DistillationArguments
from .clip_data import VALIDATION, ClipData
from .objectives import AUTO, open_kernels
from .resuming import LAST

TRIALS_NAME = "kernel_trials.json"
# those of the paper's ablation
KERNELS_TRIED = (
    TokenKernel("linear"),
    TokenKernel("polynomial"),
    TokenKernel("rbf", gamma=2.0),
    TokenKernel("rbf", gamma=0.5),
)
# of the objectives' weights: the best kernel of docs/results.md is best at ten times the default
WEIGHT_FACTORS = (1.0, 10.0)
SHARDING = ("FSDP", "DEEPSPEED")


@dataclass(frozen=True)
class KernelTrial:
    """
    A kernel and a weight that are tried together.

    Args:
        kernel: of every objective whose kernel was left open.
        weight_factor: times the weights that these objectives have.
    """

    kernel: TokenKernel
    weight_factor: float

    @property
    def name(self) -> str:
        """Such as `"rbf gamma 2, weight x 10"`."""
        constants = [f"{name} {value:g}" for name, value in self.kernel.to_dict().items() if name != "name"]
        return f"{' '.join([self.kernel.name, *constants])}, weight x {self.weight_factor:g}"

    def settle(self, objectives: Sequence[DistillationObjective]) -> None:
        """Gives kernel and weight to those of `objectives` whose kernel was left open."""
        for objective in open_kernels(objectives):
            objective.kernel = self.kernel
            objective.weight *= self.weight_factor
            objective.kernel_is_open = False


def is_kernel_open(args: DistillationArguments, objectives: Sequence[DistillationObjective]) -> bool:
    """Whether validation is to choose the kernel of some of `objectives`."""
    return args.ktd_kernel == AUTO and bool(open_kernels(objectives))


def check_kernel_trials(data: ClipData) -> None:
    """
    Refuses trials that could not be run or judged.

    Raises:
        ValueError: without a validation split, or where FSDP or DeepSpeed shard the one teacher of all trials.
    """
    if not len(data.features.get(VALIDATION, ())):
        raise ValueError(
            f"--ktd_kernel {AUTO} compares students on the validation split, of which {data.args.dataset} has "
            f"no usable clip (splits: {', '.join(data.features)}). Name a kernel: {', '.join(KERNELS)}."
        )
    for name in SHARDING:
        if parse_flag_from_env(f"ACCELERATE_USE_{name}"):
            raise ValueError(
                f"--ktd_kernel {AUTO} trains several students beside one teacher, which {name} would shard anew for "
                "each. Choose the kernel on one device or under DDP, and name it here."
            )


def kernel_trials(args: DistillationArguments) -> list[KernelTrial]:
    """All that is tried; where `args.balance` replaces the weights, the kernels alone."""
    factors = WEIGHT_FACTORS if args.balance == "none" else (1.0,)
    return [KernelTrial(kernel, factor) for kernel in KERNELS_TRIED for factor in factors]


def choose_kernel(
    args: DistillationArguments, score: Callable[[KernelTrial, DistillationArguments], Sequence[float]]
) -> tuple[KernelTrial, dict[str, list[float]]]:
    """
    The trial with the best score on the validation split, and the scores of all by name.

    The paper gives no rule for the kernel, and its reviewers asked for one. Neither how well a kernel explains the
    teacher's answers, nor runs of a fifth of the length, nor a comparison at one weight found the best one in our
    benchmark (docs/results.md, Which kernel); whole runs did, with each kernel at two weights. So this costs eight
    runs before the run itself.

    A trial that is done is kept in `kernel_trials.json` in `args.output_dir`, one that was interrupted has its
    checkpoints below it: a run that is resumed repeats neither.

    Args:
        args: of the run.
        score: trains a student with the given trial and options, and says how good it is on validation, the number
            that decides first. Higher is better; the same on all ranks.
    """
    path = Path(args.output_dir, TRIALS_NAME)
    scores = _kept(path) if args.resume_from_checkpoint else {}
    trials = kernel_trials(args)
    for number, trial in enumerate(trials, 1):
        if trial.name not in scores:
            _say(args, f"Kernel trial {number} of {len(trials)}: {trial.name}")
            folder = path.with_suffix("") / str(number)
            scores[trial.name] = list(score(trial, _trial_arguments(args, folder)))
            _keep(args, path, scores)
            _say(args, f"{trial.name}: {', '.join(f'{value:.4f}' for value in scores[trial.name])} on validation")
    best = max(trials, key=lambda trial: scores[trial.name])
    _say(args, f"Best on validation: {best.name}")
    return best, scores


def _trial_arguments(args: DistillationArguments, folder: Path) -> DistillationArguments:
    """The run's own, but for where it is saved and told."""
    trial = copy.copy(args)
    trial.output_dir = str(folder)
    trial.report_to, trial.push_to_hub = [], False
    trial.resume_from_checkpoint = LAST if args.resume_from_checkpoint else None
    return trial


def _kept(path: Path) -> dict[str, list[float]]:
    """What the main process finds, for all ranks alike."""
    found = [json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}]
    return broadcast_object_list(found)[0]


def _keep(args: DistillationArguments, path: Path, scores: dict[str, list[float]]) -> None:
    if args.should_save:
        write_whole(path, json.dumps(scores, indent=2) + "\n")
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)


def _say(args: DistillationArguments, text: str) -> None:
    if args.process_index == 0:
        print(text, file=sys.stderr, flush=True)
