"""What holds for every objective on tokens."""

from types import SimpleNamespace

import pytest
import torch

from hf_emktd.distillation import BRANCHES, OBJECTIVES

NAMES = ("ktd", "em_ktd", "clip_ktd", "em_clip_ktd", "at", "spkd", "mtst", "vkd", "manifold")


@pytest.fixture
def build(student_grids):
    """An objective by its name, for a student of width 6 and a teacher of width 9, calibrated if it needs to be."""

    def build(name, signal=None, **options):
        torch.manual_seed(0)
        student = SimpleNamespace(branch_grids=student_grids, branch_widths=dict.fromkeys(BRANCHES, 6))
        teacher = SimpleNamespace(branch_grids=student_grids, branch_widths=dict.fromkeys(BRANCHES, 9))
        objective = OBJECTIVES[name].for_models(student, teacher, **options)
        if signal is not None:
            objective.calibrate([signal])
        return objective

    return build


@pytest.fixture
def signal(make_signal):
    entropies = {branch: torch.tensor([0.1, 0.5, 2.0]) for branch in BRANCHES}
    return make_signal(width=9, seed=1, entropies=entropies)


def parts_of(objective, output, signal):
    torch.manual_seed(0)
    return objective(output, signal)


@pytest.mark.parametrize("name", NAMES)
def test_parts_are_positive_scalars_by_branch_and_weight(name, build, make_tokens, make_output, signal):
    parts = parts_of(build(name, signal), make_output(make_tokens()), signal)
    assert list(parts) == [f"{name}_{branch}" for branch in BRANCHES]
    assert all(part.shape == () and part > 0 for part in parts.values())
    one, three = (
        parts_of(build(name, signal, weight=weight), make_output(make_tokens()), signal) for weight in (1.0, 3.0)
    )
    torch.testing.assert_close({key: 3 * part for key, part in one.items()}, three)


@pytest.mark.parametrize("name", NAMES)
def test_parts_are_float32_under_autocast_and_give_the_teacher_no_gradient(
    name, build, make_tokens, make_output, signal
):
    objective, tokens = build(name, signal), make_tokens()
    expected = parts_of(objective, make_output(tokens), signal)
    for value in (*tokens.values(), *signal.tokens.values()):
        value.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = parts_of(objective, make_output(tokens), signal)
    sum(parts.values()).backward()
    for key, part in parts.items():
        assert part.dtype == torch.float32
        assert torch.equal(part, expected[key])
    assert all(value.grad is None for value in signal.tokens.values())
    assert all(value.grad.isfinite().all() and value.grad.abs().max() > 0 for value in tokens.values())


@pytest.mark.parametrize("name", NAMES)
def test_tokens_of_16_bits_give_parts_of_32(name, build, make_tokens, make_output, signal):
    objective = build(name, signal)
    tokens = {branch: value.bfloat16() for branch, value in make_tokens().items()}
    signal.tokens = {branch: value.bfloat16() for branch, value in signal.tokens.items()}
    parts = parts_of(objective, make_output(tokens), signal)
    assert all(part.dtype == torch.float32 and part.isfinite() for part in parts.values())


@pytest.mark.parametrize("name", NAMES)
def test_dead_tokens_have_finite_gradients(name, build, make_tokens, make_output, signal):
    tokens = {branch: torch.zeros_like(value).requires_grad_() for branch, value in make_tokens().items()}
    sum(parts_of(build(name, signal), make_output(tokens), signal).values()).backward()
    assert all(value.grad.isfinite().all() for value in tokens.values())


@pytest.mark.parametrize("name", NAMES)
def test_branches_that_one_side_lacks(name, build, make_tokens, make_output, signal):
    objective, tokens = build(name, signal), make_tokens()
    audio_only = make_output({"audio": tokens["audio"]})
    assert list(parts_of(objective, audio_only, signal)) == [f"{name}_audio"]
    with pytest.raises(ValueError, match="output_tokens=True"):
        parts_of(objective, make_output({}), signal)
    del signal.tokens["visual"]
    with pytest.raises(ValueError, match=r"returned visual tokens, the teacher only those of"):
        parts_of(objective, make_output(tokens), signal)


@pytest.mark.parametrize("name", NAMES)
def test_chosen_branches_keep_their_order(name, build, make_tokens, make_output, signal):
    objective = build(name, signal, branches=["fusion", "audio"])
    assert list(parts_of(objective, make_output(make_tokens()), signal)) == [f"{name}_audio", f"{name}_fusion"]
    with pytest.raises(ValueError, match="branches must name some of audio, visual, fusion"):
        build(name, branches=["audio", "video"])
    with pytest.raises(ValueError, match="weight must be positive and finite, got 0"):
        build(name, weight=0)
