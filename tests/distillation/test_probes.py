import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_emktd.distillation import MaskProbe, binary_entropy_of, entropy_of, pool_masks

UNLABELLED = -100


def random_tokens(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def entropy_at(probability):
    return -probability * math.log(probability) - (1 - probability) * math.log(1 - probability)


@pytest.fixture
def placed():
    """Tokens on a grid of 2 x 3, width 5."""
    torch.manual_seed(0)
    return MaskProbe(5, (2, 3), (2, 3))


@pytest.fixture
def placeless():
    """Four tokens a frame of width 5, which tell a mask of 2 x 3."""
    torch.manual_seed(0)
    return MaskProbe(5, (2, 2), (2, 3), on_picture=False)


@pytest.mark.parametrize(
    ("logit", "expected"), [(0.0, math.log(2)), (math.log(3), entropy_at(0.75)), (-math.log(3), entropy_at(0.75))]
)
def test_binary_entropy_equals_hand_value(logit, expected):
    assert binary_entropy_of(torch.tensor([logit])).tolist() == pytest.approx([expected])


@pytest.mark.parametrize("size", [200.0, 1e4, 1e30])
def test_binary_entropy_of_large_logits_is_0(size):
    logits = torch.tensor([size, -size], requires_grad=True)
    entropy = binary_entropy_of(logits)
    entropy.sum().backward()
    assert entropy.tolist() == [0.0, 0.0]
    assert logits.grad.tolist() == [0.0, 0.0]


def test_binary_entropy_gradient_equals_finite_differences():
    logits = random_tokens(3, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(binary_entropy_of, logits)


def test_binary_entropy_is_that_of_two_classes():
    logits = random_tokens(3, 4)
    torch.testing.assert_close(binary_entropy_of(logits), entropy_of(torch.stack([logits / 2, -logits / 2], dim=-1)))


def test_squares_are_those_of_the_side_with_fewer_positions():
    """A mask of 6 x 12 has three positions a token down and four across: the grid is not to be finer than the mask."""
    probe = MaskProbe(5, (2, 3), (6, 12))
    assert probe.grid == (6, 9)
    assert probe(random_tokens(2, 1, 6, 5)).shape == (2, 1, 6, 9)


def test_masks_are_pooled_to_shares_and_unlabelled_frames_stay_negative():
    masks = torch.zeros(1, 2, 4, 4, dtype=torch.int64)
    masks[0, 0, :2, :2] = 1
    masks[0, 0, 0, 2] = 1
    masks[0, 1] = UNLABELLED
    pooled = pool_masks(masks, (2, 2))
    assert pooled.dtype == torch.float32
    assert pooled[0, 0].tolist() == [[1.0, 0.25], [0.0, 0.0]]
    assert (pooled[0, 1] < 0).all()


def test_probe_of_placed_tokens_reads_each_where_it_lies(placed):
    tokens = random_tokens(2, 3 * 6, 5)
    logits = placed(placed.features(tokens))
    assert logits.shape == (2, 3, 2, 3)
    token = F.layer_norm(tokens[1, 2 * 6 + 1 * 3 + 2], (5,))
    layer = placed[-1]
    torch.testing.assert_close(logits[1, 2, 1, 2], layer.weight[0] @ token + layer.bias[0])
    assert sum(parameter.numel() for parameter in placed.parameters()) == 5 + 1


def test_probe_of_placeless_tokens_reads_the_mean_of_the_frame(placeless):
    tokens = random_tokens(2, 3 * 4, 5)
    logits = placeless(placeless.features(tokens))
    assert logits.shape == (2, 3, 2, 3)
    mean = F.layer_norm(tokens[1, 4:8].mean(dim=0), (5,))
    layer = placeless[-1]
    torch.testing.assert_close(logits[1, 1].flatten(), layer.weight @ mean + layer.bias)
    assert sum(parameter.numel() for parameter in placeless.parameters()) == (5 + 1) * 6


@pytest.mark.parametrize("kind", ["placed", "placeless"])
def test_features_give_the_same_as_tokens(kind, request):
    probe = request.getfixturevalue(kind)
    features = probe.features(random_tokens(2, 12, 5))
    assert probe.features(features) is features
    assert features.shape == {"placed": (2, 2, 6, 5), "placeless": (2, 3, 1, 5)}[kind]


def test_tokens_that_fill_no_whole_frame_raise(placed):
    with pytest.raises(ValueError, match=r"got 7 tokens, which are not whole frames of 2 x 3.*branch_grids"):
        placed.features(random_tokens(1, 7, 5))


def test_loss_equals_hand_value_and_ignores_frames_without_a_label(placed):
    logits = torch.tensor([[[[0.0, math.log(3)]], [[5.0, -7.0]]]], requires_grad=True)
    targets = torch.tensor([[[[1.0, 0.5]], [[-100.0, -100.0]]]])
    expected = (math.log(2) - 0.5 * math.log(0.75) - 0.5 * math.log(0.25)) / 2
    loss = placed.loss(logits, targets)
    loss.backward()
    assert loss.item() == pytest.approx(expected)
    torch.testing.assert_close(logits.grad[0, 0, 0], torch.tensor([-0.25, 0.125]))
    assert logits.grad[0, 1].tolist() == [[0.0, 0.0]]


def test_loss_without_a_labelled_frame_is_0(placed):
    assert placed.loss(torch.ones(1, 1, 2, 3), torch.full((1, 1, 2, 3), -100.0)).item() == 0


def test_entropy_is_the_mean_over_positions_and_frames(placed):
    logits = torch.tensor([[[[0.0, math.log(3)]], [[100.0, -100.0]]], [[[0.0, 0.0]], [[0.0, 0.0]]]])
    expected = [(math.log(2) + entropy_at(0.75)) / 4, math.log(2)]
    assert placed.entropy(logits).tolist() == pytest.approx(expected)


def test_entropy_over_the_foreground_is_weighted_by_its_probability():
    probe = MaskProbe(5, (1, 2), (1, 2), entropy_over="foreground")
    logits = torch.tensor([[[[math.log(3), -math.log(3)]]], [[[100.0, 0.0]]], [[[-1e4, -1e4]]]])
    expected = [entropy_at(0.75), 0.5 * math.log(2) / 1.5, 0.0]
    assert probe.entropy(logits).tolist() == pytest.approx(expected)


def test_background_makes_the_mean_small_and_not_the_foregrounds():
    logits = torch.full((1, 1, 8, 8), -8.0)
    logits[0, 0, :2, :2] = 0.0
    mean, foreground = (
        MaskProbe(5, (8, 8), (8, 8), entropy_over=region).entropy(logits) for region in ("frame", "foreground")
    )
    assert mean.item() < 0.1 * math.log(2)
    assert foreground.item() > 0.95 * math.log(2)


@pytest.mark.parametrize(("hidden_layers", "linear_layers"), [(0, 1), (2, 3)])
def test_hidden_layers_make_an_mlp_of_every_token(hidden_layers, linear_layers):
    probe = MaskProbe(5, (2, 3), (2, 3), hidden_layers=hidden_layers)
    assert sum(isinstance(module, nn.Linear) for module in probe) == linear_layers
    assert probe(probe.features(random_tokens(1, 6, 5))).shape == (1, 1, 2, 3)


class TestFinerThanTokens:
    """A token tells the square of positions that it covers."""

    def test_each_square_is_its_own_tokens(self):
        torch.manual_seed(0)
        probe = MaskProbe(5, (2, 3), (9, 12))
        assert probe.grid == (8, 12) and probe[-1].out_features == 16
        tokens = torch.randn(2, 12, 5)
        logits = probe(probe.features(tokens))
        assert logits.shape == (2, 2, 8, 12)
        changed = tokens.clone()
        changed[1, 6 + 4] = torch.randn(5)  # second frame, second row, second column
        difference = probe(probe.features(changed)) != logits
        assert difference[1, 1, 4:8, 4:8].all() and difference.sum() == 16

    def test_positions_run_by_rows_within_a_square(self):
        probe = MaskProbe(4, (1, 2), (2, 4))
        with torch.no_grad():
            probe[-1].weight.zero_()
            probe[-1].bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        expected = torch.tensor([[1.0, 2.0, 1.0, 2.0], [3.0, 4.0, 3.0, 4.0]])
        torch.testing.assert_close(probe(probe.features(torch.randn(1, 2, 4)))[0, 0], expected)

    def test_a_coarser_mask_takes_the_tokens_grid(self):
        assert MaskProbe(5, (4, 4), (2, 2)).grid == (4, 4)
        assert MaskProbe(5, (1, 8), (2, 3), on_picture=False).grid == (2, 3)

    def test_learns_what_lies_inside_a_token(self):
        """A square of which a half sounds, known to the token: without finer positions the entropy stayed at log 2."""
        torch.manual_seed(0)
        tokens, left = 0.1 * torch.randn(64, 1, 5), torch.randn(64, 1) > 0
        tokens[..., 0] += torch.where(left, 1.0, -1.0)
        labels = torch.zeros(64, 1, 8, 8, dtype=torch.long)
        labels[..., :4], labels[..., 4:] = left[..., None, None], ~left[..., None, None]
        entropies = {}
        for side in (1, 2):
            probe = MaskProbe(5, (1, 1), (side, side))
            optimizer = torch.optim.Adam(probe.parameters(), lr=0.1)
            for _ in range(200):
                optimizer.zero_grad()
                probe.loss(probe(probe.features(tokens)), probe.targets(labels)).backward()
                optimizer.step()
            entropies[side] = probe.entropy(probe(probe.features(tokens))).mean().item()
        assert entropies[1] > 0.69 and entropies[2] < 0.1
