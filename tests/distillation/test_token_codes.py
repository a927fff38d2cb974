"""Codes of tokens: what they keep, and how much of it."""

import pytest
import torch

from hf_emktd.distillation import pool_branch
from hf_emktd.distillation.kernels import TokenKernel
from hf_emktd.distillation.token_codes import CLIP, CODECS, GRID, TOKEN, PlainTokens, TokenRelations, cosine_errors


def structured_tokens(batch=3, tokens=60, width=96, rank=6, noise=0.05, seed=0):
    """A mean, a few directions and noise, of differing lengths: what the tokens of a trained model look like."""
    random = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=random)  # noqa: E731
    structure = 2 * normal(batch, 1, width) + normal(batch, tokens, rank) @ normal(batch, rank, width)
    return (structure + noise * normal(batch, tokens, width)) * (1 + 4 * torch.rand(tokens, 1, generator=random))


def one_grid(tokens):
    return ((1, tokens.shape[1]),)


def decoded(codec, tokens):
    """Tokens of each clip through the codec, one clip after the other."""
    codes = codec.encode(tokens, one_grid(tokens))
    return [codec.decode({name: value.unsqueeze(0) for name, value in code.items()})[0] for code in codes]


def columns_of(codec, tokens):
    (code,) = codec.encode(tokens, one_grid(tokens))
    return code


class TestRelations:
    @pytest.mark.parametrize("max_error", [0.05, 0.02, 0.01])
    @pytest.mark.parametrize("noise", [0.0, 0.2])
    def test_keeps_the_bound(self, max_error, noise):
        tokens = structured_tokens(noise=noise)
        codec = TokenRelations(max_error=max_error)
        for clip, values in zip(tokens, decoded(codec, tokens), strict=True):
            largest, mean_square = cosine_errors(clip.unsqueeze(0), values.unsqueeze(0))
            assert mean_square.item() <= max_error < 1
            assert largest >= mean_square

    def test_a_tighter_bound_costs_rank(self):
        tokens = structured_tokens(1, noise=0.5)
        ranks = [columns_of(TokenRelations(max_error=error), tokens)["code"].shape[1] for error in (0.1, 0.03, 0.01)]
        assert ranks == sorted(ranks) and ranks[0] < ranks[-1]

    def test_the_rank_is_each_clips_own(self):
        tokens = torch.cat([structured_tokens(1, rank=2, noise=0.0), structured_tokens(1, rank=30, noise=0.0)])
        simple, rich = (code["code"].shape[1] for code in TokenRelations().encode(tokens, one_grid(tokens)))
        assert simple == 4 < rich <= 36  # three directions with the mean, in steps of four

    def test_ends_at_the_largest_rank(self):
        code = columns_of(TokenRelations(max_error=1e-6, max_rank=8), structured_tokens(1, noise=0.5))
        assert code["code"].shape == (60, 8) and code["code"].dtype == torch.int8

    def test_full_rank_deviates_by_rounding_alone(self):
        tokens = structured_tokens(2, tokens=40, width=12)
        values = torch.stack(decoded(TokenRelations(max_error=1e-6), tokens))
        largest, mean_square = cosine_errors(tokens, values)
        assert largest.max() < 0.02 and mean_square.max() < 0.005

    def test_large_sides_lose_little_to_the_approximate_decomposition(self):
        tokens = structured_tokens(1, tokens=400, width=300, rank=40, noise=0.3)
        codec = TokenRelations(max_error=1e-6, max_rank=32)
        (values,) = decoded(codec, tokens)
        unit = torch.nn.functional.normalize(tokens[0], dim=-1)
        left, sizes, _ = torch.linalg.svd(unit)
        best = (left[:, :32] * sizes[:32]).unsqueeze(0)
        error, least = (cosine_errors(tokens, each)[1].item() for each in (values.unsqueeze(0), best))
        assert error < 1.1 * least

    def test_pooled_tokens_are_those_of_the_pooled_originals(self):
        tokens = structured_tokens(2, tokens=64, noise=0.05)
        values = torch.nn.utils.rnn.pad_sequence([v.T for v in decoded(TokenRelations(), tokens)], batch_first=True)
        fine, coarse = {"audio": ((8, 8),)}, {"audio": ((4, 2),)}
        pooled, expected = (pool_branch("audio", t, fine, coarse) for t in (values.mT, tokens))
        assert cosine_errors(expected, pooled)[1].max() < 0.02
        torch.testing.assert_close(pooled.norm(dim=-1), expected.norm(dim=-1), rtol=0.02, atol=0)

    def test_every_kernel_sees_the_same(self):
        tokens = structured_tokens(1)
        (values,) = decoded(TokenRelations(), tokens)
        for kernel in (TokenKernel("linear"), TokenKernel("polynomial"), TokenKernel("rbf", gamma=2.0)):
            assert (kernel.gram(values) - kernel.gram(tokens[0])).square().mean().sqrt() < 0.05

    def test_dead_tokens_stay_dead(self):
        tokens = structured_tokens(1)
        tokens[0, 3] = 0
        (values,) = decoded(TokenRelations(), tokens)
        assert values[3].abs().max() == 0 and values.isfinite().all()

    def test_same_tokens_same_code_whatever_was_drawn_before(self):
        tokens = structured_tokens(1, tokens=300, width=200)
        torch.rand(3)
        first = columns_of(TokenRelations(max_rank=16), tokens)
        state = torch.random.get_rng_state()
        again = columns_of(TokenRelations(max_rank=16), tokens)
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert torch.equal(state, torch.random.get_rng_state())

    def test_zeros_beyond_the_code_change_nothing(self):
        codec, tokens = TokenRelations(), structured_tokens(1)
        code = {name: value.unsqueeze(0) for name, value in columns_of(codec, tokens).items()}
        wider = code | {name: torch.nn.functional.pad(code[name], (0, 5)) for name in ("code", "scale")}
        assert cosine_errors(codec.decode(wider), codec.decode(code))[0].item() < 1e-6

    def test_what_is_left_out_does_not_make_tokens_alike(self):
        """Noise of a tenth of the energy, which no rank holds: cosines keep their mean."""
        tokens = structured_tokens(1, tokens=200, width=300, rank=2, noise=0.8)
        (values,) = decoded(TokenRelations(max_error=1e-6, max_rank=4), tokens)
        expected, cosines = (TokenKernel("linear").gram(t) for t in (tokens[0], values))
        left_out = 1 - torch.linalg.svdvals(torch.nn.functional.normalize(tokens[0]))[:4].square().sum() / 200
        assert left_out > 0.08
        assert (cosines - expected).mean().abs() < 0.1 * left_out

    def test_the_mean_of_each_grid_is_kept(self):
        tokens = structured_tokens(2, tokens=60)
        for clip, code in zip(tokens, TokenRelations(max_rank=4).encode(tokens, ((4, 5), (8, 5))), strict=True):
            expected = torch.stack([clip[:20].mean(dim=0), clip[20:].mean(dim=0)])
            torch.testing.assert_close(code["means"], expected.half())

    def test_tokens_beyond_half_precision_have_finite_means(self):
        assert columns_of(TokenRelations(), torch.full((1, 4, 3), 1e6))["means"].isfinite().all()

    @pytest.mark.parametrize("constants", [{"max_error": 0.0}, {"max_rank": 0}])
    def test_refuses_constants_outside_their_range(self, constants):
        with pytest.raises(ValueError, match=next(iter(constants))):
            TokenRelations(**constants)


class TestPlainTokens:
    def test_are_the_tokens_in_half_precision(self):
        tokens = structured_tokens()
        torch.testing.assert_close(torch.stack(decoded(PlainTokens(), tokens)), tokens.half().float(), rtol=0, atol=0)

    def test_numbers_beyond_half_precision_stay_finite(self):
        (values,) = decoded(PlainTokens(), torch.full((1, 2, 3), 1e6))
        assert values.isfinite().all()


@pytest.mark.parametrize("name", CODECS)
def test_columns_are_as_described(name):
    codec = CODECS[name]()
    (code,) = codec.encode(structured_tokens(1), ((4, 5), (8, 5)))
    assert list(code) == list(codec.columns)
    rows = {TOKEN: 60, GRID: 2, CLIP: 1}
    for column, (dtype, what) in codec.columns.items():
        assert str(code[column].dtype) == f"torch.{dtype}" and len(code[column]) == rows[what]
    assert codec.to_dict()["name"] == name
