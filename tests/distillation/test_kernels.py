import math

import pytest
import torch

from hf_emktd.distillation import KERNELS, TokenKernel
from hf_emktd.distillation.kernels import unit_tokens

# directions (1, 0), (0.6, 0.8), (0, 1)
TOKENS = torch.tensor([[2.0, 0.0], [0.3, 0.4], [0.0, 5.0]])
COSINES = torch.tensor([[1.0, 0.6, 0.0], [0.6, 1.0, 0.8], [0.0, 0.8, 1.0]])


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (TokenKernel("linear"), COSINES),
        (TokenKernel("polynomial"), torch.tensor([[4.0, 2.56, 1.0], [2.56, 4.0, 3.24], [1.0, 3.24, 4.0]])),
        (TokenKernel("polynomial", constant=0.0, degree=3), COSINES**3),
        (
            TokenKernel("rbf"),
            torch.tensor(
                [
                    [1.0, math.exp(-0.4), math.exp(-1)],
                    [math.exp(-0.4), 1.0, math.exp(-0.2)],
                    [math.exp(-1), math.exp(-0.2), 1.0],
                ]
            ),
        ),
    ],
    ids=str,
)
def test_gram_equals_hand_values(kernel, expected):
    torch.testing.assert_close(kernel.gram(TOKENS), expected, atol=1e-6, rtol=0)


def test_rbf_is_the_exponential_of_squared_distances():
    tokens = torch.randn(2, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    unit = tokens / tokens.norm(dim=-1, keepdim=True)
    expected = torch.exp(-2.0 * torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist") ** 2)
    torch.testing.assert_close(TokenKernel("rbf", gamma=2.0).gram(tokens), expected)


def test_rbf_with_gamma_one_half_stays_between_exp_minus_2_and_1():
    opposite = torch.tensor([[1.0, 0.0], [-3.0, 0.0]])
    assert TokenKernel("rbf", gamma=0.5).gram(opposite)[0, 1].item() == pytest.approx(math.exp(-2))


@pytest.mark.parametrize("name", KERNELS)
def test_gradient_equals_finite_differences(name):
    tokens = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    kernel = TokenKernel(name)
    assert torch.autograd.gradcheck(kernel.gram, tokens)


@pytest.mark.parametrize("name", KERNELS)
def test_gram_is_positive_semidefinite(name):
    tokens = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.linalg.eigvalsh(TokenKernel(name).gram(tokens)).min() > -1e-10


@pytest.mark.parametrize("name", KERNELS)
def test_gram_is_float32_under_autocast(name):
    tokens = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
    expected = TokenKernel(name).gram(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gram = TokenKernel(name).gram(tokens)
    assert gram.dtype == torch.float32
    assert torch.equal(gram, expected)


@pytest.mark.parametrize(
    ("given", "computed"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
)
def test_gram_is_computed_in_at_least_float32(given, computed):
    tokens = TOKENS.to(given)
    gram = TokenKernel("rbf").gram(tokens)
    assert gram.dtype == computed
    assert torch.equal(gram, TokenKernel("rbf").gram(tokens.to(computed)))


@pytest.mark.parametrize("length", [0.0, 1e-30])
def test_dead_token_has_finite_values_and_no_gradient(length):
    tokens = torch.tensor([[3.0, 4.0], [length, 0.0], [1.0, 1.0]], requires_grad=True)
    gram = TokenKernel("rbf").gram(tokens)
    (gram * torch.arange(9.0).view(3, 3)).sum().backward()
    assert gram.isfinite().all()
    assert gram[1, 0].item() == pytest.approx(math.exp(-1))
    assert tokens.grad.isfinite().all()
    assert tokens.grad[1].abs().max() == 0
    assert tokens.grad[0].abs().max() > 0


def test_unit_tokens_do_not_depend_on_length():
    tokens = torch.randn(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(unit_tokens(tokens * 1e-3), unit_tokens(tokens * 1e5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cosine"}, "unknown name 'cosine'; known are linear, polynomial, rbf"),
        ({"gamma": 0.0}, r"gamma must be positive and finite, got 0\.0"),
        ({"gamma": float("nan")}, "gamma must be positive and finite, got nan"),
        ({"constant": -1.0}, "constant must not be negative, and finite, got -1.0"),
        ({"degree": 0}, "degree must be a whole number of at least 1, got 0"),
        ({"degree": 2.0}, "degree must be a whole number of at least 1, got 2.0"),
    ],
)
def test_invalid_option_raises(options, message):
    with pytest.raises(ValueError, match=message):
        TokenKernel(**options)


def test_to_dict_names_the_constants_in_use():
    assert TokenKernel("linear").to_dict() == {"name": "linear"}
    assert TokenKernel("polynomial").to_dict() == {"name": "polynomial", "constant": 1.0, "degree": 2}
    assert TokenKernel("rbf", gamma=2.0).to_dict() == {"name": "rbf", "gamma": 2.0}


@pytest.mark.parametrize("constant", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("name", KERNELS)
def test_span_is_the_distance_of_the_extreme_values(name, degree, constant):
    kernel = TokenKernel(name, gamma=0.7, constant=constant, degree=degree)
    values = kernel.of_cosines(torch.linspace(-1, 1, 20001, dtype=torch.float64))
    assert kernel.span == pytest.approx(float(values.max() - values.min()), abs=1e-6)
