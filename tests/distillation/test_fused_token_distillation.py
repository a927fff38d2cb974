"""The loss by blocks against the loss by whole Gram matrices."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from hf_emktd.distillation import TokenKernel, fused_token_distillation, sliding_windows, token_distillation_loss
from hf_emktd.distillation.fused_token_distillation import upper_blocks
from hf_emktd.distillation.token_distillation import gram_spread

KERNELS = (
    TokenKernel("linear"),
    TokenKernel("polynomial"),
    TokenKernel("polynomial", constant=0.3, degree=3),
    TokenKernel("polynomial", degree=1),
    TokenKernel("rbf"),
    TokenKernel("rbf", gamma=2.0),
)


def random_tokens(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def whole(student, teacher, kernel, delta=1.0):
    """Per-clip loss from the two Gram matrices of each clip, by autograd."""
    losses = F.huber_loss(kernel.gram(student), kernel.gram(teacher), reduction="none", delta=delta)
    return losses.mean(dim=(1, 2))


def value_and_gradient(loss, student, *args, **kwargs):
    student = student.clone().requires_grad_()
    value = loss(student, *args, **kwargs)
    # clips count differently, as with entropy weights
    (torch.arange(1, 1 + len(value)) * value).sum().backward()
    return value.detach(), student.grad


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of at most 5 x 5 tokens."""
    monkeypatch.setattr(fused_token_distillation, "CACHE_ENTRIES", 25)


@pytest.mark.parametrize("delta", [0.05, 1.0])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("count", [1, 4, 5, 6, 23])
def test_blocks_give_value_and_gradient_of_the_whole(small_blocks, kernel, delta, count):
    student, teacher = random_tokens(3, count, 4), random_tokens(3, count, 7, seed=1)
    for ours, expected in zip(
        value_and_gradient(token_distillation_loss, student, teacher, kernel, delta),
        value_and_gradient(whole, student, teacher, kernel, delta),
        strict=True,
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_gradient_equals_finite_differences(small_blocks, kernel):
    student, teacher = random_tokens(2, 7, 3).requires_grad_(), random_tokens(2, 7, 4, seed=1)
    assert torch.autograd.gradcheck(lambda tokens: token_distillation_loss(tokens, teacher, kernel, 0.3), student)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_float32_is_exact_to_a_hundred_thousandth(kernel):
    """Tokens of a teacher resemble one another: a shared direction, then a student close to the teacher."""
    teacher = random_tokens(2, 600, 48) + 3 * random_tokens(1, 1, 48, seed=1)
    student = (teacher + 0.1 * random_tokens(2, 600, 48, seed=2)) @ random_tokens(48, 24, seed=3)
    expected = value_and_gradient(whole, student, teacher, kernel)
    ours = value_and_gradient(token_distillation_loss, student.float(), teacher.float(), kernel)
    for value, exact in zip(ours, expected, strict=True):
        assert value.dtype == torch.float32
        assert (value.double() - exact).norm() < 1e-5 * exact.norm()


def test_the_sum_over_many_tokens_does_not_drift():
    """All 16 million differences are equal but for rounding; a running float32 sum of them would be off by 1e-3."""
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(1, 2000, 1)
    loss = token_distillation_loss(student, torch.ones(1, 4000, 3), TokenKernel("linear"))
    assert loss.item() == pytest.approx(0.25, rel=1e-6)


def test_clips_of_a_batch_do_not_meet(small_blocks):
    student, teacher = random_tokens(6, 3, 4), random_tokens(6, 3, 5, seed=1)
    together = value_and_gradient(token_distillation_loss, student, teacher, TokenKernel())
    for clip in range(6):
        alone = student[clip : clip + 1], teacher[clip : clip + 1]
        value, gradient = value_and_gradient(token_distillation_loss, *alone, TokenKernel())
        torch.testing.assert_close(value[0], together[0][clip])
        torch.testing.assert_close((clip + 1) * gradient[0], together[1][clip])


@pytest.mark.parametrize("length", [0.0, 1e-9])
def test_dead_tokens_are_those_of_the_whole(small_blocks, length):
    student, teacher = random_tokens(2, 11, 4), random_tokens(2, 11, 4, seed=1)
    student[0, 2] = student[1, 10] = teacher[1, 4] = length
    ours = value_and_gradient(token_distillation_loss, student, teacher, TokenKernel())
    for value, expected in zip(ours, value_and_gradient(whole, student, teacher, TokenKernel()), strict=True):
        torch.testing.assert_close(value, expected)
    assert ours[1][0, 2].abs().max() == 0 and ours[1].isfinite().all()


class TestMask:
    mask = torch.tensor([[True] * 16, [True] * 9 + [False] * 7, [True, False] * 8])

    @pytest.mark.parametrize("kernel", KERNELS, ids=str)
    def test_masked_tokens_are_not_there(self, small_blocks, kernel):
        student, teacher = random_tokens(3, 16, 4), random_tokens(3, 16, 7, seed=1)
        value, gradient = value_and_gradient(token_distillation_loss, student, teacher, kernel, mask=self.mask)
        for clip, real in enumerate(self.mask):
            alone = student[clip, real].unsqueeze(0), teacher[clip, real].unsqueeze(0)
            expected, expected_gradient = value_and_gradient(token_distillation_loss, *alone, kernel)
            torch.testing.assert_close(value[clip], expected[0])
            torch.testing.assert_close(gradient[clip, real], (clip + 1) * expected_gradient[0])
            assert gradient[clip, ~real].abs().sum() == 0

    def test_in_windows_the_mean_is_over_real_pairs(self):
        windows = sliding_windows("visual", {"visual": ((4, 4),)})
        student, teacher = random_tokens(3, 16, 4), random_tokens(3, 16, 7, seed=1)
        value = token_distillation_loss(student, teacher, TokenKernel(), windows=windows, mask=self.mask)
        for clip, real in enumerate(self.mask):
            differences = (TokenKernel().gram(student[clip]) - TokenKernel().gram(teacher[clip])).square() / 2
            pairs = [differences[w][:, w][real[w]][:, real[w]].flatten() for w in windows]
            torch.testing.assert_close(value[clip], torch.cat(pairs).mean())

    def test_a_clip_without_tokens_has_no_loss(self):
        mask = torch.tensor([[False] * 5, [True] * 5])
        tokens = random_tokens(2, 5, 3).requires_grad_()
        loss = token_distillation_loss(tokens, random_tokens(2, 5, 3, seed=1), TokenKernel(), mask=mask)
        loss.sum().backward()
        assert loss[0] == 0 and loss[1] > 0
        assert tokens.grad[0].abs().sum() == 0 and tokens.grad.isfinite().all()

    @pytest.mark.parametrize("mask", [torch.ones(3, 15, dtype=torch.bool), torch.ones(3, 16)])
    def test_other_masks_are_refused(self, mask):
        with pytest.raises(ValueError, match=r"mask must be bool \(3, 16\)"):
            token_distillation_loss(random_tokens(3, 16, 4), random_tokens(3, 16, 4), TokenKernel(), mask=mask)


class Operations(TorchDispatchMode):
    """Remembers what was computed, and the entries of the largest tensor."""

    def __init__(self):
        super().__init__()
        self.names, self.entries = set(), 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.names.add(operation.name().split(".")[0])
        self.entries = max([self.entries, *(tensor.numel() for tensor in tensors)])
        return result


def test_no_gram_matrix_is_kept():
    student, teacher = random_tokens(2, 3000, 4).requires_grad_(), random_tokens(2, 3000, 8)
    with Operations() as operations:
        token_distillation_loss(student, teacher, TokenKernel("linear"), 0.1).sum().backward()
        gram_spread(teacher, TokenKernel())
    assert operations.entries <= 2 * 3 * fused_token_distillation.CACHE_ENTRIES < 3000**2 / 4


@pytest.mark.parametrize(("count", "side"), [(23, 5), (23, 1), (1, 4), (64, 16), (7, 7)])
def test_blocks_cover_each_pair_once(count, side):
    seen = torch.zeros(count, count, dtype=torch.int64)
    for rows, columns in upper_blocks(0, count, side):
        assert max(rows.stop - rows.start, columns.stop - columns.start) <= side
        seen[rows, columns] += 1
        if rows != columns:
            seen[columns, rows] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_spread_is_that_of_the_whole_gram_matrix(small_blocks, kernel, windowed):
    tokens = random_tokens(3, 16, 5)
    windows = sliding_windows("visual", {"visual": ((4, 4),)}) if windowed else torch.arange(16).unsqueeze(0)
    gram = torch.stack([kernel.gram(tokens[:, window]).flatten(1) for window in windows], dim=1).flatten(1)
    expected = F.huber_loss(gram, gram.mean(1, keepdim=True).expand_as(gram), reduction="none", delta=0.2).mean(1)
    torch.testing.assert_close(gram_spread(tokens, kernel, 0.2, windows if windowed else None), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_tokens_are_compared_in_float32(dtype):
    student, teacher = random_tokens(2, 9, 6, dtype=dtype), random_tokens(2, 9, 8, seed=1, dtype=dtype)
    value, gradient = value_and_gradient(token_distillation_loss, student, teacher, TokenKernel())
    expected, exact = value_and_gradient(whole, student.double(), teacher.double(), TokenKernel())
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    torch.testing.assert_close(value, expected.float(), rtol=1e-5, atol=0)
    assert (gradient.double() - exact).norm() < 1e-2 * exact.norm()


def test_a_compiler_sees_one_operation():
    student, teacher = random_tokens(2, 9, 6, dtype=torch.float32), random_tokens(2, 9, 8, dtype=torch.float32)
    compiled = torch.compile(token_distillation_loss, backend="aot_eager", fullgraph=True)
    ours = value_and_gradient(compiled, student, teacher, TokenKernel())
    for value, expected in zip(
        ours, value_and_gradient(token_distillation_loss, student, teacher, TokenKernel()), strict=True
    ):
        assert torch.equal(value, expected)


def test_the_operation_is_well_formed():
    operation = torch.ops.hf_emktd.token_distillation.default
    for needed in (True, False):
        args = random_tokens(2, 9, 6).half(), random_tokens(2, 9, 8), "rbf", 0.5, 1.0, 2, 1.0, needed
        torch.library.opcheck(operation, args, test_utils=("test_schema", "test_faketensor"))


def test_gradient_checkpointing_changes_nothing():
    layer, teacher = torch.nn.Linear(5, 6, dtype=torch.float64), random_tokens(2, 9, 8)

    def loss(inputs):
        return token_distillation_loss(layer(inputs), teacher, TokenKernel())

    expected = value_and_gradient(loss, random_tokens(2, 9, 5))
    ours = value_and_gradient(lambda inputs: checkpoint(loss, inputs, use_reentrant=False), random_tokens(2, 9, 5))
    assert all(torch.equal(value, other) for value, other in zip(ours, expected, strict=True))


def test_a_second_derivative_is_refused():
    student = random_tokens(1, 5, 3).requires_grad_()
    loss = token_distillation_loss(student, random_tokens(1, 5, 3, seed=1), TokenKernel()).sum()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, student, create_graph=True)


def test_the_graph_may_be_walked_twice():
    """`--balance gradient` asks for the gradient of every objective before the backward pass of their sum."""
    student = random_tokens(1, 5, 3).requires_grad_()
    loss = token_distillation_loss(student, random_tokens(1, 5, 3, seed=1), TokenKernel()).sum()
    (first,) = torch.autograd.grad(loss, student, retain_graph=True)
    loss.backward()
    assert torch.equal(first, student.grad)


def test_without_a_gradient_none_is_formed():
    tokens, teacher = random_tokens(1, 8, 5), random_tokens(1, 8, 3, seed=1)
    names = []
    for needed in (False, True):
        with Operations() as operations:
            token_distillation_loss(tokens.requires_grad_(needed), teacher, TokenKernel())
        names.append(operations.names)
    assert "aten::addcmul_" in names[1] and "aten::addcmul_" not in names[0]
