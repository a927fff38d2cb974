"""The frozen teacher and the signal that objectives read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .entropy_monitor import CLASSIFICATION, EntropyMonitor
from .teacher_precision import in_dtype
from .token_distillation import (
    BRANCHES,
    Grids,
    check_branch_pools,
    cut_sound,
    cut_sound_tokens,
    shared_branches,
    token_grids,
)

CONTRACT = ("task", "input_shapes", "branch_grids", "branch_widths", "num_labels", "id2label")
# of a picture encoder with several resolutions; no part of the contract
STAGES = ("stage_embeddings", "stage_maps")


@dataclass
class TeacherSignal:
    """
    What objectives need of the teacher for one batch.

    Args:
        logits: `(batch, classes)`, or of masks `(batch, frames, height, width)`, before the sigmoid.
        tokens: by branch, `(batch, tokens, width)`; branches whose input is missing are left out.
        grids: by branch the grids of `tokens` in their order: [`~distillation.token_grids`] of the teacher's config,
            of the sound those columns alone that the student hears too.
        entropies: by branch, `(batch,)` in nats; empty without a monitor.
        means: by branch the mean token of each grid, `(batch, grids, width)`, where `tokens` are in another basis for
            each clip; else they follow from `tokens`.
        labels: of the clips, where they are known before the student sees them: in calibration.
        stage_embeddings, stage_maps: `(batch, frames, width, rows, columns)` of each stage of a picture encoder that
            has stages; `None` of others.
    """

    logits: Tensor
    tokens: dict[str, Tensor]
    grids: Grids
    entropies: dict[str, Tensor] = field(default_factory=dict)
    means: dict[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None
    stage_embeddings: tuple[Tensor, ...] | None = None
    stage_maps: tuple[Tensor, ...] | None = None


class LiveTeacher(nn.Module):
    """
    A frozen teacher that runs beside the student: no gradient, always in eval mode.

    Args:
        model: any model that keeps the output contract of docs/architecture.md. It is frozen in place.
        monitor: trained on this model's tokens; gives `entropies`.
        dtype: of the model's weights and inputs, e.g. bfloat16 for half the memory; for `torch.qint8`
            see [`in_dtype`].
            The monitor stays as it is.

    Raises:
        ValueError: if the config lacks a field of the contract, or the monitor belongs to another teacher.
    """

    def __init__(
        self, model: PreTrainedModel, monitor: EntropyMonitor | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        check_contract(model.config, "teacher")
        if monitor is not None:
            check_monitor(monitor, model)
        self.model = model if dtype is None else in_dtype(model, dtype)
        self.monitor = monitor
        self.grids = token_grids(model.config)
        self.config = model.config
        self.requires_grad_(False)
        self.eval()

    def check_serves(self, objectives: Iterable[Any]) -> None:
        """Raises `ValueError` if objectives need entropies and there is no monitor."""
        if self.monitor is None and any(objective.requires_entropies for objective in objectives):
            names = ", ".join(type(objective).__name__ for objective in objectives)
            raise ValueError(f"{names} need branch entropies: pass LiveTeacher(model, monitor=EntropyMonitor(...)).")

    def train(self, mode: bool = True) -> LiveTeacher:
        """Stays in eval mode whatever `mode` says."""
        return super().train(False)

    # Not inference_mode: it is no faster here, and an objective that multiplies its tensors into the student's could
    # not save them for the backward pass.
    @torch.no_grad()
    def forward(self, **inputs: Any) -> TeacherSignal:
        """
        Takes a whole batch: `teacher_input_values` and `teacher_pixel_values` go before `input_values` and
        `pixel_values`, as far as the model takes them; everything else in the batch is left alone. Where the student's
        sound is shorter, the teacher's is the same one and silence: tokens of the silence are left out.
        """
        output = self.model(**self._model_inputs(inputs), output_tokens=True)
        tokens, grids = self._heard(branch_tokens(output), inputs)
        entropies = {} if self.monitor is None else self.monitor(tokens).entropies
        stages = {name: output.get(name) for name in STAGES}
        return TeacherSignal(logits=output.logits, tokens=tokens, grids=grids, entropies=entropies, **stages)

    def _heard(self, tokens: dict[str, Tensor], inputs: dict[str, Any]) -> tuple[dict[str, Tensor], Grids]:
        """Tokens and their grids without the columns of sound that the student does not hear."""
        given, own = inputs.get("input_values"), inputs.get("teacher_input_values")
        share = Fraction(1) if given is None or own is None else heard_share(given.shape[1:], own.shape[1:])
        if share == 1:
            return tokens, self.grids
        cut = {branch: cut_sound_tokens(branch, value, self.grids, share) for branch, value in tokens.items()}
        return cut, cut_sound(self.grids, share)

    def _model_inputs(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        taken = list(self.model.config.input_shapes)
        chosen = {name: inputs.get(f"teacher_{name}", inputs.get(name)) for name in taken}
        if all(value is None for value in chosen.values()):
            raise ValueError(f"the batch has no {' and no '.join(taken)} for the teacher; it has {sorted(inputs)}.")
        return {name: value.to(self.model.dtype) for name, value in chosen.items() if value is not None}


def branch_tokens(output: ModelOutput) -> dict[str, Tensor]:
    """The tokens of a model's output by branch, those that are `None` left out."""
    tokens = {branch: getattr(output, f"{branch}_tokens") for branch in BRANCHES}
    return {branch: value for branch, value in tokens.items() if value is not None}


def check_contract(config: Any, role: str) -> None:
    """Raises `ValueError` if `config` of the `role` ("teacher", "student") lacks what distillation reads."""
    missing = [name for name in CONTRACT if getattr(config, name, None) is None]
    if missing:
        raise ValueError(
            f"the {role}'s {type(config).__name__} has no {', '.join(missing)}. A model can be distilled when its "
            f"config has {', '.join(CONTRACT)} and its output has logits and tokens (docs/architecture.md, Contracts)."
        )


def check_compatible(student_config: Any, teacher_config: Any) -> None:
    """
    Refuses a student and a teacher that cannot be distilled: another task or class list, another number of frames, a
    finer student grid, sound that ends inside a teacher's token, or a config without the contract's fields.

    Raises:
        ValueError: naming both sides.
    """
    check_contract(student_config, "student")
    check_contract(teacher_config, "teacher")
    _check_task("student", student_config, "teacher", teacher_config)
    _check_labels("student", student_config, "teacher", teacher_config)
    student_grids, teacher_grids = token_grids(student_config), heard_grids(student_config, teacher_config)
    for branch in shared_branches(student_grids, teacher_grids):
        check_branch_pools(branch, teacher_grids, student_grids)


def heard_grids(student_config: Any, teacher_config: Any) -> Grids:
    """
    The teacher's grids, of its sound the columns that the student hears too: a shorter student's sound is the
    beginning of the teacher's, which continues with silence.

    Raises:
        ValueError: if the student's sound ends inside a column of the teacher's tokens.
    """
    shapes = [dict(config.input_shapes).get("input_values") for config in (student_config, teacher_config)]
    grids = token_grids(teacher_config)
    return grids if None in shapes else cut_sound(grids, heard_share(*shapes))


def heard_share(student_shape: Sequence[int], teacher_shape: Sequence[int]) -> Fraction:
    """
    How much of the teacher's sound the student hears, from the shapes of a clip's spectrograms, (time, mel). What is
    no such pair, a waveform or several frames, counts as a whole.
    """
    comparable = len(student_shape) == 2 and tuple(student_shape[1:]) == tuple(teacher_shape[1:])
    return min(Fraction(1), Fraction(student_shape[0], teacher_shape[0])) if comparable else Fraction(1)


def check_monitor(monitor: EntropyMonitor, teacher: PreTrainedModel) -> None:
    """Raises `ValueError` if `monitor` was not trained on the tokens and classes of `teacher`."""
    _check_task("monitor", monitor.config, "teacher", teacher.config)
    if dict(monitor.config.branch_widths) != dict(teacher.config.branch_widths):
        raise ValueError(
            f"the monitor reads tokens of widths {dict(monitor.config.branch_widths)}, the teacher returns "
            f"{dict(teacher.config.branch_widths)}. Train a monitor for this teacher."
        )
    _check_labels("monitor", monitor.config, "teacher", teacher.config)
    _check_frames(monitor, teacher)
    expected = monitor.config.teacher_fingerprint
    if expected is not None and expected != fingerprint(teacher):
        raise ValueError(
            f"the monitor was trained on teacher {monitor.config.teacher_name_or_path!r} with fingerprint {expected}, "
            f"this teacher {teacher.config._name_or_path!r} has {fingerprint(teacher)}. Train a monitor for this one."
        )


def fingerprint(model: nn.Module) -> str:
    """
    Sixteen hexadecimal digits that change with a model's weights; float32 weights and their bfloat16 copy share them.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_task(role: str, config: Any, other_role: str, other_config: Any) -> None:
    if config.task != other_config.task:
        raise ValueError(
            f"the {role} is for {config.task}, the {other_role} for {other_config.task}. Both need the same task."
        )


def _check_frames(monitor: EntropyMonitor, teacher: PreTrainedModel) -> None:
    """A clip's class can be told from any number of tokens, a mask needs the grid that the probes know."""
    if monitor.config.task == CLASSIFICATION:
        return
    ours = {branch: monitor.config.token_grid(branch) for branch in monitor.probes}
    theirs = {branch: token_grids(teacher.config)[branch][0] for branch in monitor.probes}
    if ours != theirs:
        raise ValueError(
            f"the monitor reads frames of tokens on the grids {ours}, the teacher returns {theirs}. Train a monitor "
            "for this teacher and picture size."
        )


def _check_labels(role: str, config: Any, other_role: str, other_config: Any) -> None:
    if config.num_labels != other_config.num_labels:
        raise ValueError(
            f"the {role} has {config.num_labels} classes, the {other_role} {other_config.num_labels}. Both need the "
            "same class list in the same order."
        )
    ours, theirs = config.id2label, other_config.id2label
    differing = [index for index in sorted(ours) if ours[index] != theirs.get(index)]
    if differing:
        shown = "; ".join(f"{i}: {role} {ours[i]!r}, {other_role} {theirs.get(i)!r}" for i in differing[:3])
        raise ValueError(
            f"{role} and {other_role} name {len(differing)} of {len(ours)} classes differently ({shown}). Both need "
            f"the same class list in the same order: set id2label of the {role} from the {other_role}'s config."
        )
