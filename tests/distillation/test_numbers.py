"""Every objective on numbers at the edge: what it returns is finite with a finite gradient, or it says so."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers.utils import ModelOutput

from hf_emktd.distillation import (
    BRANCHES,
    OBJECTIVES_OF_TASK,
    EntropyMonitor,
    EntropyMonitorConfig,
    TeacherSignal,
    TokenKernel,
    token_distillation_loss,
)

EVENTS, MASKS = OBJECTIVES_OF_TASK
PAIRS = [(task, name) for task, objectives in OBJECTIVES_OF_TASK.items() for name in objectives]
CLIPS, CLASSES, FRAMES = 5, 4, 2


@dataclass
class Sides:
    """What an objective is given of a batch."""

    student: ModelOutput
    teacher: TeacherSignal
    labels: Tensor

    def changed(self, change: Callable[[Tensor], Tensor], sides: tuple[str, ...] = ("student", "teacher")) -> Sides:
        """With every tensor of `sides` changed."""
        student, teacher = self.student, self.teacher
        if "student" in sides:
            student = ModelOutput({name: _each(value, change) for name, value in student.items()})
        if "teacher" in sides:
            names = ("logits", "tokens", "stage_maps", "stage_embeddings")
            teacher = replace(teacher, **{name: _each(getattr(teacher, name), change) for name in names})
        return Sides(student, teacher, self.labels)

    def without(self, *branches: str) -> Sides:
        student = ModelOutput(dict(self.student) | {f"{branch}_tokens": None for branch in branches})
        kept = [branch for branch in self.teacher.tokens if branch not in branches]
        tokens, entropies = ({b: values[b] for b in kept} for values in (self.teacher.tokens, self.teacher.entropies))
        return Sides(student, replace(self.teacher, tokens=tokens, entropies=entropies), self.labels)


def _each(value, change):
    if isinstance(value, tuple):
        return tuple(map(change, value))
    if isinstance(value, dict):
        return {name: change(tensor) for name, tensor in value.items()}
    return None if value is None else change(value)


def config(task: str, width: int, classes: int) -> SimpleNamespace:
    grids = {"audio": ((4, 8),), "visual": ((4, 4),), "fusion": ((4, 8), (4, 4))}
    if task == MASKS:
        grids = {"audio": ((4, 8),) * FRAMES, "visual": ((4, 4),) * FRAMES, "fusion": ((4, 4),) * FRAMES}
    return SimpleNamespace(
        task=task,
        branch_grids=grids,
        branch_widths=dict.fromkeys(BRANCHES, width),
        stage_widths=(8, 8, 8, 8),
        num_labels=classes,
        id2label={index: str(index) for index in range(classes)},
    )


def sides(task: str, clips: int = CLIPS, classes: int = CLASSES) -> Sides:
    random = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    def stages() -> tuple[Tensor, ...]:
        return tuple(numbers(clips, FRAMES, 8, 16 >> stage, 16 >> stage) for stage in range(4))

    grids = config(task, 8, classes).branch_grids
    counts = {branch: sum(rows * columns for rows, columns in grids[branch]) for branch in BRANCHES}
    shape = (clips, classes) if task == EVENTS else (clips, FRAMES, 16, 16)
    labels = torch.randint(classes if task == EVENTS else 2, shape[: 1 if task == EVENTS else 4], generator=random)
    student = {"logits": numbers(*shape)}
    student |= {f"{branch}_tokens": numbers(clips, count, 8) for branch, count in counts.items()}
    tokens = {branch: numbers(clips, count, 12) for branch, count in counts.items()}
    entropies = {branch: torch.rand(clips, generator=random) for branch in BRANCHES}
    signal = TeacherSignal(numbers(*shape), tokens, grids, entropies)
    if task == MASKS:
        labels[:, 1] = -100
        student |= {"stage_maps": stages(), "stage_embeddings": stages()}
        signal = replace(signal, stage_maps=stages(), stage_embeddings=stages())
    return Sides(ModelOutput(student), signal, labels)


def objective(task: str, name: str, classes: int = CLASSES, **options):
    made = OBJECTIVES_OF_TASK[task][name].for_models(config(task, 8, classes), config(task, 12, classes), **options)
    if made.requires_calibration:
        clips = sides(task, classes=classes)
        made.calibrate([replace(clips.teacher, labels=clips.labels)])
    return made


def outcome(made, given: Sides) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The parts and all gradients of their sum."""
    made.zero_grad()
    leaves = given.changed(lambda tensor: tensor.detach().requires_grad_(), ("student",))
    parts = made(leaves.student, given.teacher, given.labels)
    loss = torch.stack(list(parts.values())).sum()
    if loss.requires_grad:
        loss.backward()
    values = [value for value in leaves.student.values() if value is not None]
    tensors = [tensor for value in values for tensor in (value if isinstance(value, tuple) else (value,))]
    return parts, [tensor.grad for tensor in (*tensors, *made.parameters()) if tensor.grad is not None]


def assert_finite(parts: dict[str, Tensor], gradients: list[Tensor]) -> None:
    assert all(part.isfinite() for part in parts.values()), parts
    assert all(gradient.isfinite().all() for gradient in gradients)


def zero_in_places(tensor: Tensor) -> Tensor:
    """A clip without any signal, and a token of every clip."""
    tensor = tensor.clone()
    tensor[2] = 0
    if tensor.ndim == 3:
        tensor[:, 3] = 0
    return tensor


CHANGES = {
    "all_zero": torch.zeros_like,
    "zero_in_places": zero_in_places,
    "constant_tokens": torch.ones_like,
    "equal_clips": lambda tensor: tensor[:1].expand_as(tensor).clone(),
    "large": lambda tensor: 1e15 * tensor,
    "tiny": lambda tensor: 1e-20 * tensor,
    "float16_largest": lambda tensor: (65504 * tensor.sign()).half(),
    "bfloat16": lambda tensor: (1e10 * tensor).bfloat16(),
}


@pytest.mark.parametrize(("task", "name"), PAIRS)
class TestFinite:
    def test_whatever_the_tokens_are(self, task, name):
        made, given = objective(task, name), sides(task)
        for change in CHANGES.values():
            for changed in (("student",), ("teacher",), ("student", "teacher")):
                assert_finite(*outcome(made, given.changed(change, changed)))

    def test_for_one_clip_and_a_last_short_batch(self, task, name):
        made = objective(task, name)
        for clips in (1, 2):
            assert_finite(*outcome(made, sides(task, clips)))

    def test_for_many_classes_and_few(self, task, name):
        for classes in (2, 10_000) if name != "nd" else (2, 100):
            assert_finite(*outcome(objective(task, name, classes), sides(task, classes=classes)))

    def test_without_a_branch_or_it_says_what_is_missing(self, task, name):
        for absent in (("audio",), ("visual",), ("audio", "visual")):
            try:
                assert_finite(*outcome(objective(task, name), sides(task).without(*absent)))
            except ValueError as error:
                assert (name in ("affinity", "fd_cmkd") and "audio" in str(error)) or "visual" in str(error)

    def test_where_no_clip_is_labelled_or_all_are_mixed(self, task, name):
        given = sides(task)
        given.labels = torch.full((CLIPS, CLASSES), 0.25) if task == EVENTS else torch.full_like(given.labels, -100)
        assert_finite(*outcome(objective(task, name), given))

    def test_or_it_is_seen_in_the_loss(self, task, name):
        """A gradient that is not finite comes with a loss that is not, so that looking at the loss finds it."""
        made, given = objective(task, name), sides(task)
        cases = {"1e25": given.changed(lambda tensor: 1e25 * tensor)}
        for side in ("student", "teacher"):
            for value in (torch.nan, torch.inf):
                cases[f"{side} {value}"] = given.changed(lambda tensor, v=value: with_one(tensor, v), (side,))
        for case, changed in cases.items():
            parts, gradients = outcome(made, changed)
            is_finite = all(part.isfinite() for part in parts.values())
            assert not is_finite or all(gradient.isfinite().all() for gradient in gradients), case
            assert not is_finite or case != "student nan"


def with_one(tensor: Tensor, value: float) -> Tensor:
    tensor = tensor.clone()
    tensor[1, ..., 0] = value
    return tensor


@pytest.mark.parametrize("temperature", [1e-4, 1e4])
@pytest.mark.parametrize(("task", "name"), [pair for pair in PAIRS if pair[1] in ("kd", "em_kd", "bd_kd", "mtst")])
def test_temperatures(task, name, temperature):
    assert_finite(*outcome(objective(task, name, temperature=temperature), sides(task)))


@pytest.mark.parametrize("name", ["nkd", "dkd", "trg", "affinity"])
@pytest.mark.parametrize("extreme", [1e-4, 1e4])
def test_temperatures_of_events(name, extreme):
    option = {"logit_scale" if name == "affinity" else "temperature": extreme}
    assert_finite(*outcome(objective(EVENTS, name, **option), sides(EVENTS)))


@pytest.mark.parametrize("name", ["em_ktd", "em_kd", "em_clip_ktd"])
def test_lambda_and_entropies(name):
    given = sides(EVENTS)
    for entropy in (0.0, 1e4):
        given.teacher.entropies = {branch: torch.full((CLIPS,), entropy) for branch in BRANCHES}
        for entropy_lambda in (0.0, 1e-4, 1e4):
            assert_finite(*outcome(objective(EVENTS, name, entropy_lambda=entropy_lambda), given))


@pytest.mark.parametrize("option", ["temperature", "weight", "entropy_lambda"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_options_that_are_no_numbers_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} must .*finite, got"):
        objective(EVENTS, "em_kd", **{option: value})


@pytest.mark.parametrize("name", ["nkd", "dkd"])
def test_what_compares_other_classes_needs_some(name):
    with pytest.raises(ValueError, match="there is one class alone"):
        outcome(objective(EVENTS, name, classes=1), sides(EVENTS, classes=1))


@pytest.mark.parametrize("name", [name for name in OBJECTIVES_OF_TASK[EVENTS] if name not in ("nkd", "dkd")])
def test_one_class(name):
    assert_finite(*outcome(objective(EVENTS, name, classes=1), sides(EVENTS, classes=1)))


def test_calibration_on_tokens_that_are_no_numbers_says_so():
    given = sides(EVENTS).changed(lambda tensor: with_one(tensor, torch.nan), ("teacher",))
    made = OBJECTIVES_OF_TASK[EVENTS]["ktd"].for_models(config(EVENTS, 8, CLASSES), config(EVENTS, 12, CLASSES))
    with pytest.raises(ValueError, match="audio tokens of some calibration clips are NaN or infinite"):
        made.calibrate([given.teacher])


@pytest.mark.parametrize(
    "kernel", [TokenKernel("linear"), TokenKernel("polynomial", degree=9), TokenKernel(gamma=1e4)]
)
@pytest.mark.parametrize("delta", [1e-6, 1e6])
def test_the_fused_loss_of_extreme_kernels(kernel, delta):
    random = torch.Generator().manual_seed(0)
    student = torch.randn(3, 40, 8, generator=random)
    student[0, 3] = student[1] = 0
    student.requires_grad_()
    loss = token_distillation_loss(student, torch.randn(3, 40, 12, generator=random), kernel, delta)
    loss.sum().backward()
    assert loss.isfinite().all() and student.grad.isfinite().all()


@pytest.mark.parametrize("classes", [1, 10_000])
@pytest.mark.parametrize("change", CHANGES)
def test_the_monitor_is_never_in_doubt_about_its_doubt(classes, change):
    monitor = EntropyMonitor(EntropyMonitorConfig(branch_widths=dict.fromkeys(BRANCHES, 12), num_labels=classes))
    given = sides(EVENTS, classes=classes).changed(CHANGES[change])
    output = monitor(given.teacher.tokens, given.labels)
    output.loss.backward()
    for entropies in output.entropies.values():
        assert entropies.isfinite().all() and -1e-5 <= entropies.min() <= entropies.max() <= math.log(classes) + 1e-4
    assert all(parameter.grad.isfinite().all() for parameter in monitor.parameters())


@pytest.mark.parametrize("entropy_over", ["frame", "foreground"])
def test_the_monitor_of_masks_likewise(entropy_over):
    grids = config(MASKS, 12, 1).branch_grids
    options = {"task": MASKS, "branch_grids": grids, "entropy_over": entropy_over}
    monitor = EntropyMonitor(EntropyMonitorConfig(branch_widths=dict.fromkeys(BRANCHES, 12), **options))
    for change in CHANGES.values():
        given = sides(MASKS).changed(change)
        for labels in (given.labels, torch.full_like(given.labels, -100)):
            output = monitor(given.teacher.tokens, labels)
            assert output.loss.isfinite() and all(value.isfinite().all() for value in output.entropies.values())
