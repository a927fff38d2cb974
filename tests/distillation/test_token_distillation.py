import math

import pytest
import torch

from hf_emktd.distillation import (
    KERNELS,
    TokenKernel,
    pool_branch,
    pool_tokens,
    shared_branches,
    sliding_windows,
    token_distillation_loss,
)
from hf_emktd.distillation.token_distillation import (
    check_branch_pools,
    gram_spread,
    mean_of_branch,
    modalities_of,
    token_grids,
)

FULL_GRIDS = {"audio": ((8, 64),), "visual": ((14, 14),), "fusion": ((8, 64), (14, 14))}
ORTHOGONAL = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
EQUAL = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
OPPOSITE = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])


def random_tokens(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# Two of the four entries differ: by 1 (orthogonal) or 2 (opposite) for the linear kernel.
@pytest.mark.parametrize(
    ("student", "kernel", "expected"),
    [
        (ORTHOGONAL, "linear", 2 / 4 * 0.5 * 1**2),
        (OPPOSITE, "linear", 2 / 4 * (2 - 0.5)),
        (ORTHOGONAL, "polynomial", 2 / 4 * (3 - 0.5)),
        (ORTHOGONAL, "rbf", 2 / 4 * 0.5 * (1 - math.exp(-1)) ** 2),
        (OPPOSITE, "rbf", 2 / 4 * 0.5 * (1 - math.exp(-2)) ** 2),
    ],
)
def test_loss_equals_hand_value(student, kernel, expected):
    loss = token_distillation_loss(student, EQUAL, TokenKernel(kernel))
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_delta_moves_the_huber_threshold():
    loss = token_distillation_loss(ORTHOGONAL, EQUAL, TokenKernel("linear"), delta=0.25)
    assert loss.item() == pytest.approx(2 / 4 * 0.25 * (1 - 0.125))


def test_loss_is_taken_clip_by_clip():
    student = torch.cat([ORTHOGONAL, EQUAL, OPPOSITE])
    teacher = torch.cat([EQUAL, EQUAL, EQUAL])
    loss = token_distillation_loss(student, teacher, TokenKernel("linear"))
    torch.testing.assert_close(loss, torch.tensor([0.25, 0.0, 0.75]))


def test_rbf_one_half_is_half_the_squared_error():
    student, teacher = random_tokens(4, 9, 5), random_tokens(4, 9, 7, seed=1)
    kernel = TokenKernel("rbf", gamma=0.5)
    squared = (kernel.gram(student) - kernel.gram(teacher)).square().mean(dim=(1, 2))
    torch.testing.assert_close(token_distillation_loss(student, teacher, kernel), squared / 2)


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("name", KERNELS)
def test_gradient_equals_finite_differences(name, windowed):
    windows = sliding_windows("visual", {"visual": ((4, 4),)}) if windowed else None
    student, teacher = random_tokens(2, 16, 3).requires_grad_(), random_tokens(2, 16, 4, seed=1)
    assert torch.autograd.gradcheck(
        lambda tokens: token_distillation_loss(tokens, teacher, TokenKernel(name), windows=windows), student
    )


@pytest.mark.parametrize("name", KERNELS)
def test_loss_does_not_see_rotation_length_width_or_order(name):
    kernel = TokenKernel(name)
    student, teacher = random_tokens(2, 8, 6), random_tokens(2, 8, 10, seed=1)
    expected = token_distillation_loss(student, teacher, kernel)
    rotation, _ = torch.linalg.qr(random_tokens(6, 6, seed=2))
    lengths = random_tokens(2, 8, 1, seed=3).exp()
    wider = torch.cat([student, torch.zeros(2, 8, 5, dtype=student.dtype)], dim=2)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(token_distillation_loss(student @ rotation, teacher, kernel), expected)
    torch.testing.assert_close(token_distillation_loss(student * lengths, teacher, kernel), expected)
    torch.testing.assert_close(token_distillation_loss(wider, teacher, kernel), expected)
    torch.testing.assert_close(token_distillation_loss(student[:, order], teacher[:, order], kernel), expected)
    assert (token_distillation_loss(student[:, order], teacher, kernel) - expected).abs().min() > 1e-4


def test_loss_is_float32_under_autocast():
    student, teacher = random_tokens(2, 8, 16).float(), random_tokens(2, 8, 16, seed=1).bfloat16()
    expected = token_distillation_loss(student, teacher, TokenKernel())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = token_distillation_loss(student, teacher, TokenKernel())
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_no_gradient_reaches_the_teacher():
    student, teacher = random_tokens(2, 8, 4).requires_grad_(), random_tokens(2, 8, 4, seed=1).requires_grad_()
    token_distillation_loss(student, teacher, TokenKernel()).sum().backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 0


@pytest.mark.parametrize("name", KERNELS)
def test_dead_tokens_give_finite_gradients(name):
    student, teacher = random_tokens(1, 4, 3), random_tokens(1, 4, 3, seed=1)
    student[0, 2] = 0
    teacher[0, 1] = 0
    student.requires_grad_()
    loss = token_distillation_loss(student, teacher, TokenKernel(name))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert student.grad.isfinite().all()


def test_differing_counts_raise():
    with pytest.raises(ValueError, match=r"\(1, 2, 2\) and teacher tokens \(1, 3, 2\).*pool_branch"):
        token_distillation_loss(EQUAL, torch.ones(1, 3, 2), TokenKernel())


# Teacher K = identity: mean 0.5, every entry off by 0.5.
def test_spread_equals_hand_value():
    assert gram_spread(ORTHOGONAL, TokenKernel("linear")).item() == pytest.approx(0.5 * 0.5**2)
    assert gram_spread(ORTHOGONAL, TokenKernel("linear"), delta=0.1).item() == pytest.approx(0.1 * (0.5 - 0.05))
    assert gram_spread(EQUAL, TokenKernel("linear")).item() == 0


def test_pooling_averages_neighbours_row_by_row():
    tokens = torch.arange(16.0).view(1, 16, 1)
    assert pool_tokens(tokens, (4, 4), (2, 2)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert pool_tokens(tokens, (2, 8), (2, 2)).flatten().tolist() == [1.5, 5.5, 9.5, 13.5]
    assert pool_tokens(tokens, (4, 4), (4, 4)) is tokens


def test_pooling_fusion_tokens_keeps_the_modalities_apart():
    tokens = torch.cat([torch.arange(8.0), 100 + torch.arange(4.0)]).view(1, 12, 1)
    pooled = pool_branch("fusion", tokens, {"fusion": ((2, 4), (2, 2))}, {"fusion": ((1, 2), (1, 1))})
    assert pooled.flatten().tolist() == [2.5, 4.5, 101.5]


def test_pooling_frames_keeps_them_apart_and_in_order():
    tokens = random_tokens(2, 3 * 16, 5)
    pooled = pool_branch("visual", tokens, {"visual": ((4, 4),) * 3}, {"visual": ((2, 2),) * 3})
    expected = [pool_tokens(tokens[:, 16 * frame : 16 * (frame + 1)], (4, 4), (2, 2)) for frame in range(3)]
    assert torch.equal(pooled, torch.cat(expected, dim=1))
    assert pool_branch("visual", tokens, {"visual": ((4, 4),) * 3}, {"visual": ((4, 4),) * 3}) is tokens


# Audio 2 x 4, visual 2 x 2: twelve fusion tokens, the sound's first.
BOTH = {"audio": ((2, 4),), "visual": ((2, 2),), "fusion": ((2, 4), (2, 2))}
SOUND = {"audio": ((1, 2),), "fusion": ((1, 2),)}
PICTURE = {"visual": ((1, 1),), "fusion": ((1, 1),)}


@pytest.mark.parametrize(("student", "expected"), [(SOUND, [2.5, 4.5]), (PICTURE, [101.5]), (BOTH, None)])
def test_a_student_of_one_modality_learns_from_its_slice_of_the_fusion_tokens(student, expected):
    tokens = torch.cat([torch.arange(8.0), 100 + torch.arange(4.0)]).view(1, 12, 1)
    pooled = pool_branch("fusion", tokens, BOTH, student)
    assert pooled.flatten().tolist() == (tokens.flatten().tolist() if expected is None else expected)
    check_branch_pools("fusion", BOTH, student)


def test_a_slice_of_the_other_modality_is_not_looked_at():
    finer_picture = {"visual": ((3, 2),), "fusion": ((3, 2),)}
    with pytest.raises(ValueError, match=r"fusion branch: the student's grid of 3 x 2 .* teacher's 2 x 2"):
        check_branch_pools("fusion", BOTH, finer_picture)
    check_branch_pools("fusion", BOTH, {"audio": ((2, 4),), "fusion": ((2, 4),)})


def test_frames_are_not_modalities():
    """Two frames and two modalities: the slices of AVSegFormer's fusion tokens are frames, and both have all."""
    frames = dict.fromkeys(("audio", "visual", "fusion"), ((2, 2), (2, 2)))
    coarse = dict.fromkeys(("audio", "visual", "fusion"), ((1, 1), (1, 1)))
    pooled = pool_branch("fusion", torch.arange(8.0).view(1, 8, 1), frames, coarse)
    assert pooled.flatten().tolist() == [1.5, 5.5]


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (BOTH, BOTH, ("audio", "visual", "fusion")),
        (SOUND, BOTH, ("audio", "fusion")),
        (PICTURE, BOTH, ("visual", "fusion")),
        (SOUND, SOUND, ("audio", "fusion")),
        (BOTH, SOUND, ("audio",)),
        (SOUND, PICTURE, ()),
    ],
)
def test_shared_branches(student, teacher, expected):
    assert shared_branches(student, teacher) == expected


def test_modalities_are_those_with_a_branch():
    assert [modalities_of(grids) for grids in (BOTH, SOUND, PICTURE)] == [("audio", "visual"), ("audio",), ("visual",)]


def test_the_mean_of_a_branch_counts_the_tokens_of_the_students_grids():
    """The teacher's sound has two thirds of its tokens, the student's three quarters."""
    student = {"audio": ((1, 3),), "visual": ((1, 1),), "fusion": ((1, 3), (1, 1))}
    means = torch.tensor([[[0.0], [8.0]]])
    assert mean_of_branch("fusion", means, BOTH, student).tolist() == [[2.0]]


def test_differing_numbers_of_slices_raise():
    with pytest.raises(ValueError, match=r"visual branch: .* lie on 5 grids, the teacher's on 10; .*number of frames"):
        pool_branch("visual", torch.ones(1, 40, 1), {"visual": ((2, 2),) * 10}, {"visual": ((2, 2),) * 5})


def test_pooling_16_bit_tokens_gives_float32():
    tokens = torch.full((1, 4, 1), 257.0).half()
    assert pool_tokens(tokens, (2, 2), (1, 1)).dtype == torch.float32


@pytest.mark.parametrize("target", [(4, 2), (1, 3)])
def test_pooling_onto_a_finer_grid_raises(target):
    with pytest.raises(ValueError, match=rf"student's grid of {target[0]} x {target[1]} .* teacher's 2 x 2"):
        pool_tokens(torch.ones(1, 4, 1), (2, 2), target)


def test_tokens_that_do_not_fill_their_grid_raise():
    with pytest.raises(ValueError, match=r"got 5 tokens, but the grid 2 x 2 has 4.*prefix tokens"):
        pool_tokens(torch.ones(1, 5, 1), (2, 2), (2, 2))
    grids = {"fusion": ((2, 4), (2, 2))}
    with pytest.raises(ValueError, match=r"fusion tokens: got 8 tokens, but the grid 2 x 4 \+ 2 x 2 has 12"):
        pool_branch("fusion", torch.ones(1, 8, 1), grids, grids)


@pytest.mark.parametrize(("branch", "tokens"), [("audio", 512), ("visual", 196), ("fusion", 708)])
def test_windows_hold_nine_sixteenths_of_the_pairs_and_every_token(branch, tokens):
    windows = sliding_windows(branch, FULL_GRIDS)
    assert windows.shape == (9, tokens // 4)
    assert 16 * windows.shape[0] * windows.shape[1] ** 2 == 9 * tokens**2
    assert windows.unique().tolist() == list(range(tokens))
    assert all(len(window.unique()) == tokens // 4 for window in windows)


def test_windows_of_fourteen_start_at_0_3_and_7():
    windows = sliding_windows("visual", FULL_GRIDS)
    assert windows[:, 0].tolist() == [14 * row + column for row in (0, 3, 7) for column in (0, 3, 7)]
    assert windows[8, -1].item() == 195


def test_windows_of_a_four_by_four_grid():
    windows = sliding_windows("visual", {"visual": ((4, 4),)})
    assert windows[0].tolist() == [0, 1, 4, 5]
    assert windows[4].tolist() == [5, 6, 9, 10]
    assert windows[8].tolist() == [10, 11, 14, 15]


def test_fusion_windows_join_both_modalities():
    windows = sliding_windows("fusion", {"fusion": ((4, 8), (4, 4))})
    assert windows[0].tolist() == [0, 1, 2, 3, 8, 9, 10, 11, 32, 33, 36, 37]


def test_windows_join_those_of_all_frames():
    windows = sliding_windows("visual", {"visual": ((4, 4),) * 2})
    assert windows.shape == (9, 2 * 4)
    assert windows[4].tolist() == [5, 6, 9, 10, 21, 22, 25, 26]
    assert windows.unique().tolist() == list(range(32))


def test_odd_sides_are_covered():
    windows = sliding_windows("visual", {"visual": ((5, 7),)})
    assert windows.shape == (9, 3 * 4)
    assert windows.unique().tolist() == list(range(35))


def test_windowed_loss_is_the_mean_over_the_windows():
    windows = sliding_windows("visual", {"visual": ((4, 4),)})
    student, teacher = random_tokens(2, 16, 3), random_tokens(2, 16, 5, seed=1)
    expected = torch.stack(
        [token_distillation_loss(student[:, window], teacher[:, window], TokenKernel()) for window in windows]
    ).mean(dim=0)
    torch.testing.assert_close(token_distillation_loss(student, teacher, TokenKernel(), windows=windows), expected)


def test_windows_of_a_short_side_raise():
    with pytest.raises(ValueError, match="audio: sliding windows need sides of at least 4 tokens, got 2"):
        sliding_windows("audio", {"audio": ((2, 64),)})
    with pytest.raises(ValueError, match="visual: sliding windows need sides of at least 4 tokens, got 3"):
        sliding_windows("visual", {"visual": ((4, 4), (4, 3))})


def test_token_grids_reads_the_config(make_model):
    config = make_model().config
    assert token_grids(config) == {"audio": ((4, 8),), "visual": ((4, 4),), "fusion": ((4, 8), (4, 4))}


def test_a_narrow_student_can_learn_the_relations():
    """Gradient descent on student tokens of half the width reaches a tenth of the teacher's spread."""
    teacher, student = random_tokens(1, 8, 8), random_tokens(1, 8, 4, seed=1).requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss = token_distillation_loss(student, teacher, TokenKernel()).sum()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * gram_spread(teacher, TokenKernel()).item()
