"""The objectives that a run's options ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..distillation.kernels import TokenKernel
from ..distillation.objectives import OBJECTIVES_OF_TASK, DistillationObjective
from ..distillation.token_distillation import Grids

if TYPE_CHECKING:
    from .arguments import DistillationArguments


def build_objectives(
    args: DistillationArguments, student_grids: Grids, task: str = "audio-visual-classification"
) -> list[DistillationObjective]:
    """
    Objectives named by `args.objective`, in that order, for a student with these token grids
    ([`~distillation.token_grids`] of its config) and the `task` of its config: "kd" compares masks in segmentation.

    Raises:
        ValueError: if a constant is outside its objective's range, or the grids are too small for sliding windows.
    """
    known = OBJECTIVES_OF_TASK[task]
    return [known[name](**_options(name, args, student_grids)) for name in args.objective]


def _options(name: str, args: DistillationArguments, student_grids: Grids) -> dict[str, Any]:
    if name == "kd":
        # classes and masks have different defaults
        temperature = {} if args.kd_temperature is None else {"temperature": args.kd_temperature}
        return {"weight": args.kd_weight, **temperature}
    kernel = TokenKernel(args.ktd_kernel, gamma=args.ktd_gamma, degree=args.ktd_degree, constant=args.ktd_constant)
    options = {
        "student_grids": student_grids,
        "kernel": kernel,
        "delta": args.huber_delta,
        "weight": args.ktd_weight,
        "scale": args.ktd_scale,
        "sliding_windows": args.ktd_sliding_window,
        "branches": args.branches,
    }
    return options | ({"entropy_lambda": args.entropy_lambda} if name == "em_ktd" else {})
