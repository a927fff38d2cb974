"""The objectives that a run's options ask for."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig

from ..distillation.kernels import TokenKernel
from ..distillation.objectives import OBJECTIVES_OF_TASK, DistillationObjective
from ..distillation.token_distillation import BRANCHES, shared_branches, token_grids
from .students import json_or_text

if TYPE_CHECKING:
    from .arguments import DistillationArguments

AUTO = "auto"
ALL_OBJECTIVES = list(dict.fromkeys(name for known in OBJECTIVES_OF_TASK.values() for name in known))
# what docs/results.md supports; the paper's are in scripts/recipes/paper.yaml
WEIGHT_FROM_SCRATCH = {"audio-visual-classification": 10.0, "audio-visual-segmentation": 1.0}
WEIGHT_OF_STARTED = 1.0


def build_objectives(
    args: DistillationArguments,
    student_config: PreTrainedConfig,
    teacher_config: PreTrainedConfig,
    *,
    from_scratch: bool = True,
) -> list[DistillationObjective]:
    """
    Objectives named by `args.objective`, in that order, for this pair of models; the student's task says which class a
    name means: "kd" compares masks in segmentation. Of `args.branches` those that a model lacks are left out.

    Args:
        from_scratch: whether the student starts from random weights, for which the objectives' default weights differ.

    Raises:
        ValueError: if an objective does not exist for the task or the pair, a constant is outside its range, an option
            is unknown, the models share no branch that it needs, or the grids are too small for sliding windows.
    """
    known = OBJECTIVES_OF_TASK[student_config.task]
    strangers = [name for name in args.objective if name not in known]
    if strangers:
        raise ValueError(
            f"{', '.join(strangers)} does not exist for {student_config.task}; known: {', '.join(known)}."
        )
    own = parse_objective_options(args.objective_options, args.objective)
    weight = WEIGHT_FROM_SCRATCH[student_config.task] if from_scratch else WEIGHT_OF_STARTED
    named = {name: _named_options(name, args, weight) for name in own}
    return [
        _build(known[name], args, named[name] | own[name], student_config, teacher_config) for name in args.objective
    ]


def open_kernels(objectives: Sequence[DistillationObjective]) -> list[DistillationObjective]:
    """The objectives whose kernel is still to be chosen."""
    return [objective for objective in objectives if getattr(objective, "kernel_is_open", False)]


def option_names(objective: type[DistillationObjective]) -> list[str]:
    """The constructor's parameters that have a default, sorted: those of its base classes too if it takes kwargs."""
    names: set[str] = set()
    for cls in objective.__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(cls.__init__).parameters.values()
        names |= {parameter.name for parameter in parameters if parameter.default is not parameter.empty}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return sorted(names)


def parse_objective_options(options: list[str], objectives: list[str]) -> dict[str, dict[str, Any]]:
    """
    `["at.weight=100"]` as `{"at": {"weight": 100}}`, with an entry for each of `objectives`; values in JSON, or text.

    Raises:
        ValueError: unless each is `NAME.FIELD=VALUE` with the name of one of `objectives`.
    """
    parsed: dict[str, dict[str, Any]] = {name: {} for name in objectives}
    for option in options:
        place, separator, value = option.partition("=")
        name, dot, field = place.partition(".")
        if not separator or not dot or name not in parsed:
            raise ValueError(
                f"objective_options: expected NAME.FIELD=VALUE with the name of an objective of this run "
                f"({', '.join(objectives) or 'none'}), got {option!r}."
            )
        parsed[name][field] = json_or_text(value)
    return parsed


def _build(
    objective: type[DistillationObjective],
    args: DistillationArguments,
    own: dict[str, Any],
    student_config: PreTrainedConfig,
    teacher_config: PreTrainedConfig,
) -> DistillationObjective:
    known = option_names(objective)
    unknown = [field for field in own if field not in known]
    if unknown:
        raise ValueError(
            f"objective_options: {objective.name} has no {', '.join(unknown)}; its options: {', '.join(known)}."
        )
    options = _shared_options(args, known)
    if "branches" in known:
        options["branches"] = _branches(objective, args, student_config, teacher_config)
    try:
        return objective.for_models(student_config, teacher_config, **options | own)
    except TypeError as error:  # a text where a number belongs
        raise ValueError(f"objective_options: {objective.name}: {error}") from error


def _shared_options(args: DistillationArguments, known: list[str]) -> dict[str, Any]:
    """Of the options that mean the same for every objective, those that are `known` to this one."""
    shared = {
        "delta": args.huber_delta,
        "scale": args.ktd_scale,
        "sliding_windows": args.ktd_sliding_window,
        "entropy_lambda": args.entropy_lambda,
    }
    options = {name: value for name, value in shared.items() if name in known}
    if "kernel" in known:
        constants = {"gamma": args.ktd_gamma, "degree": args.ktd_degree, "constant": args.ktd_constant}
        # left open for training/kernel_trials.py
        options["kernel"] = None if args.ktd_kernel == AUTO else TokenKernel(args.ktd_kernel, **constants)
    return options


def _branches(
    objective: type[DistillationObjective],
    args: DistillationArguments,
    student_config: PreTrainedConfig,
    teacher_config: PreTrainedConfig,
) -> list[str]:
    student_grids, teacher_grids = token_grids(student_config), token_grids(teacher_config)
    lacking = set(BRANCHES) - set(shared_branches(student_grids, teacher_grids))
    branches = [branch for branch in args.branches if branch not in lacking]
    if args.branches and not branches:
        raise ValueError(
            f"{objective.name} compares branches that both models have, but of {', '.join(args.branches)} the student "
            f"({', '.join(student_grids)}) and the teacher ({', '.join(teacher_grids)}) share none. Compare models of "
            "different modalities by fd_cmkd and kd."
        )
    return branches


def _named_options(objective: str, args: DistillationArguments, weight: float) -> dict[str, Any]:
    """Options of the main objectives, which have flags of their own; `weight` where none is given."""
    weights = {"kd": args.kd_weight, "ktd": args.ktd_weight, "clip_ktd": args.clip_ktd_weight}
    family = objective.removeprefix("em_")
    if family not in weights:
        return {}
    options = {"weight": weight if weights[family] is None else weights[family]}
    if family == "kd" and args.kd_temperature is not None:  # classes and masks have different defaults
        options["temperature"] = args.kd_temperature
    return options
