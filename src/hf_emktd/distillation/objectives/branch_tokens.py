"""Which tokens an objective compares, branch by branch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn
from transformers.utils import ModelOutput

from ..teacher import TeacherSignal
from ..token_distillation import BRANCHES, Grids, pool_branch


def check_branches(branches: Sequence[str], **by_branch: Mapping[str, object]) -> tuple[str, ...]:
    """
    `branches` in the order of `BRANCHES`.

    Raises:
        ValueError: unless they name some of `BRANCHES`, each once at most, and every mapping of `by_branch`, such as
            `student_grids=...`, says something of each.
    """
    if isinstance(branches, str) or not branches or not set(branches) <= set(BRANCHES):
        given = branches if isinstance(branches, str) else list(branches)
        raise ValueError(f"branches must be a list of some of {', '.join(BRANCHES)}, got {given!r}.")
    for name, values in by_branch.items():
        missing = [branch for branch in branches if not values.get(branch)]
        if missing:
            raise ValueError(
                f"{name} lacks {', '.join(missing)}, got {dict(values)}. Pass what the model's config says, or leave "
                "the branch out of `branches`."
            )
    return tuple(branch for branch in BRANCHES if branch in branches)


def token_pairs(
    branches: Sequence[str], student_grids: Grids, student_output: ModelOutput, teacher_signal: TeacherSignal
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """
    By branch the tokens of student and teacher, `(batch, tokens, width)` of each, with the teacher's detached and
    average-pooled onto the student's grids. Branches that the student did not return are left out.

    Raises:
        ValueError: if the student returned none of them, or the teacher lacks one that the student returned.
    """
    found = {branch: getattr(student_output, f"{branch}_tokens") for branch in branches}
    found = {branch: tokens for branch, tokens in found.items() if tokens is not None}
    if not found:
        raise ValueError(f"the student returned no tokens of {tuple(branches)}; call it with output_tokens=True.")
    for branch, tokens in found.items():
        yield branch, tokens, teacher_tokens(branch, student_grids, teacher_signal)


def teacher_tokens(branch: str, student_grids: Grids, teacher_signal: TeacherSignal) -> Tensor:
    """
    The teacher's tokens of one branch, detached, on the student's grids.

    Raises:
        ValueError: if the teacher did not return them.
    """
    if branch not in teacher_signal.tokens:
        raise ValueError(
            f"the student returned {branch} tokens, the teacher only those of {list(teacher_signal.tokens)}. Give the "
            "teacher the same inputs, or leave the branch out of `branches`."
        )
    tokens = teacher_signal.tokens[branch].detach()
    return pool_branch(branch, tokens, teacher_signal.grids, student_grids)


def width_projections(
    branches: Sequence[str], student_widths: Mapping[str, int], teacher_widths: Mapping[str, int]
) -> nn.ModuleDict:
    """By branch a linear map from the student's width to the teacher's; nothing to learn where they are equal."""
    return nn.ModuleDict(
        {
            branch: nn.Identity()
            if student_widths[branch] == teacher_widths[branch]
            else nn.Linear(student_widths[branch], teacher_widths[branch], bias=False)
            for branch in branches
        }
    )
