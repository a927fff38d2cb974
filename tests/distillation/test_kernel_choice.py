"""The rule that chooses a kernel, on tokens whose best kernel is known."""

from __future__ import annotations

import math

import pytest
import torch

from hf_emktd.distillation import TeacherSignal, TokenKernel
from hf_emktd.distillation.kernel_choice import alignment, choose_kernel


def signal(tokens, logits) -> TeacherSignal:
    return TeacherSignal(logits=logits, tokens={"audio": tokens}, grids={"audio": ((1, tokens.shape[1]),)})


class TestAlignment:
    def test_by_hand(self):
        # centred: (-1, 0, 1) and (-1, 1, 0); similarities are their outer products, so the value is cos^2 = 1 / 4
        value = alignment(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [2.0], [1.0]]))
        assert value == pytest.approx(0.25)

    def test_of_equal_features_is_one_whatever_scale_and_rotation(self):
        torch.manual_seed(0)
        features = torch.randn(20, 5, dtype=torch.float64)
        rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
        assert alignment(features, 3 * features @ rotation + 7) == pytest.approx(1)

    def test_of_a_constant_is_zero(self):
        assert alignment(torch.ones(4, 2), torch.randn(4, 3)) == 0


class TestChoice:
    def test_finds_the_kernel_that_the_answers_were_made_with(self):
        """Two tokens at a random angle, and a logit that is one kernel's value of it."""
        torch.manual_seed(0)
        cosines = torch.linspace(-0.999, 0.999, 200)
        tokens = torch.stack([torch.stack([torch.ones(200), torch.zeros(200)], 1)] * 2, 1)
        tokens[:, 1] = torch.stack([cosines, (1 - cosines**2).sqrt()], 1)
        for truth in (TokenKernel("linear"), TokenKernel("polynomial"), TokenKernel("rbf", gamma=2.0)):
            answers = truth.of_cosines(cosines)[:, None]
            signals = [signal(*part) for part in zip(tokens.split(64), answers.split(64), strict=True)]
            chosen, scores = choose_kernel(signals)
            assert chosen == truth and scores.pop(max(scores, key=scores.get)) == pytest.approx(1, abs=1e-6)
            assert len(scores) == 3 and all(0 < score < 1 for score in scores.values())

    def test_order_of_clips_and_length_of_tokens_do_not_matter(self):
        torch.manual_seed(0)
        tokens, logits = torch.randn(12, 5, 3), torch.randn(12, 4)
        order = torch.randperm(12)
        _, one = choose_kernel([signal(tokens, logits)])
        _, two = choose_kernel([signal(7 * tokens[order], logits[order])])
        assert one == pytest.approx(two, rel=1e-5)

    def test_many_tokens_are_sampled(self):
        torch.manual_seed(0)
        _, scores = choose_kernel([signal(torch.randn(4, 120, 8), torch.randn(4, 2))])
        assert all(math.isfinite(score) for score in scores.values())

    def test_needs_clips(self):
        with pytest.raises(ValueError, match="at least three clips with tokens of audio"):
            choose_kernel([signal(torch.randn(2, 3, 4), torch.randn(2, 2))], branches=["audio"])
        with pytest.raises(ValueError, match="got 0"):
            choose_kernel([])
