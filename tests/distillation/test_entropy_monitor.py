import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import nn
from transformers import AutoModel

from hf_emktd.distillation import (
    BRANCHES,
    EntropyMonitor,
    EntropyMonitorConfig,
    entropy_of,
    entropy_weights,
    pool_masks,
)

WIDTHS = {"audio": 6, "visual": 6, "fusion": 6}


@pytest.fixture
def monitor():
    torch.manual_seed(0)
    return EntropyMonitor(EntropyMonitorConfig(branch_widths=WIDTHS, num_labels=5))


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([0.0, 0.0, 0.0, 0.0], math.log(4)),
        ([1000.0, 0.0], 0.0),
        ([math.log(3), 0.0], -0.75 * math.log(0.75) - 0.25 * math.log(0.25)),
        ([0.0, 0.0, -math.inf], math.log(2)),
    ],
)
def test_entropy_equals_hand_value(logits, expected):
    assert entropy_of(torch.tensor(logits)).item() == pytest.approx(expected, abs=1e-6)


def test_entropy_gradient_equals_finite_differences():
    logits = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(entropy_of, logits)


def test_entropy_of_16_bit_logits_is_float32():
    entropy = entropy_of(torch.zeros(309, dtype=torch.bfloat16))
    assert entropy.dtype == torch.float32
    assert entropy.item() == pytest.approx(math.log(309), rel=1e-6)


def test_weights_equal_hand_values():
    entropies = {"audio": torch.tensor([0.0, math.log(2)]), "fusion": torch.tensor([math.log(4)])}
    weights = entropy_weights(entropies, lam=0.5)
    torch.testing.assert_close(weights["audio"], torch.tensor([1.0, 2**-0.5]))
    torch.testing.assert_close(weights["fusion"], torch.tensor([0.5]))


def test_probe_is_linear_on_the_normalised_mean(monitor, make_tokens):
    tokens = make_tokens()
    mean = tokens["audio"].mean(dim=1)
    normalised = (mean - mean.mean(1, keepdim=True)) / (mean.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    layer = monitor.probes["audio"][1]
    expected = normalised @ layer.weight.T + layer.bias
    torch.testing.assert_close(monitor(tokens).logits["audio"], expected, atol=1e-6, rtol=1e-5)
    assert sum(p.numel() for p in monitor.parameters()) == 3 * (6 * 5 + 5)


def test_pooled_features_give_the_same_as_tokens(monitor, make_tokens):
    tokens = make_tokens()
    pooled = {branch: value.mean(dim=1) for branch, value in tokens.items()}
    for branch in BRANCHES:
        assert torch.equal(monitor(pooled).entropies[branch], monitor(tokens).entropies[branch])


def test_loss_is_the_sum_of_the_branches(monitor, make_tokens):
    labels = torch.tensor([0, 4, 2])
    output = monitor(make_tokens(), labels=labels)
    expected = sum(-output.logits[branch].log_softmax(1)[torch.arange(3), labels].mean() for branch in BRANCHES)
    assert output.loss.item() == pytest.approx(expected.item())


def test_mixed_labels_are_accepted(monitor, make_tokens):
    labels = torch.tensor([0, 4, 2])
    hard = monitor(make_tokens(), labels=labels).loss
    torch.testing.assert_close(monitor(make_tokens(), labels=nn.functional.one_hot(labels, 5).float()).loss, hard)


def test_missing_branch_is_left_out(monitor, make_tokens):
    tokens = make_tokens() | {"visual": None}
    del tokens["fusion"]
    assert list(monitor(tokens).entropies) == ["audio"]
    with pytest.raises(
        ValueError, match=r"probes for \['audio', 'visual', 'fusion'\], but got tokens of \['visual'\]"
    ):
        monitor({"visual": None})


def test_output_is_float32_under_autocast(monitor, make_tokens):
    tokens = make_tokens()
    expected = monitor(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = monitor(tokens)
    assert output.entropies["audio"].dtype == torch.float32
    assert torch.equal(output.entropies["audio"], expected.entropies["audio"])


def test_monitor_of_bfloat16_weights_returns_float32(monitor, make_tokens):
    output = monitor.to(torch.bfloat16)(make_tokens(dtype=torch.bfloat16))
    assert {value.dtype for value in (output.logits | output.entropies).values()} == {torch.float32}


@pytest.mark.parametrize(("hidden_layers", "linear_layers"), [(0, 1), (1, 2), (2, 3)])
def test_hidden_layers_make_an_mlp(hidden_layers, linear_layers, make_tokens):
    config = EntropyMonitorConfig(branch_widths=WIDTHS, num_labels=5, hidden_layers=hidden_layers)
    monitor = EntropyMonitor(config)
    assert sum(isinstance(m, nn.Linear) for m in monitor.probes["audio"].modules()) == linear_layers
    assert monitor(make_tokens()).logits["audio"].shape == (3, 5)


def test_saved_monitor_is_read_back_whole(tmp_path, make_tokens):
    statistics = {"audio": {"accuracy": 0.5, "mean_entropy": 1.25}}
    config = EntropyMonitorConfig(
        branch_widths={"fusion": 6, "audio": 6},
        id2label={0: "dog", 1: "cat, meowing"},
        hidden_layers=1,
        teacher_name_or_path="teacher",
        teacher_fingerprint="0123456789abcdef",
        statistics=statistics,
    )
    monitor = EntropyMonitor(config)
    monitor.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, EntropyMonitor)
    assert loaded.config.statistics == statistics
    assert loaded.config.id2label == {0: "dog", 1: "cat, meowing"}
    assert loaded.config.teacher_fingerprint == "0123456789abcdef"
    expected, output = monitor.eval()(make_tokens()), loaded(make_tokens())
    assert list(output.logits) == list(expected.logits) == ["audio", "fusion"]
    for branch, logits in expected.logits.items():
        assert torch.equal(output.logits[branch], logits)


def test_probes_learn_which_branch_knows_the_class():
    """Audio features carry the label, visual features are noise: the trained entropies must tell."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    features = {
        "audio": nn.functional.one_hot(labels, 6) + 0.2 * torch.randn(400, 6, generator=generator),
        "visual": torch.randn(400, 6, generator=generator),
    }
    torch.manual_seed(0)
    monitor = EntropyMonitor(EntropyMonitorConfig(branch_widths={"audio": 6, "visual": 6}, num_labels=4))
    optimizer = torch.optim.Adam(monitor.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        monitor(features, labels=labels).loss.backward()
        optimizer.step()
    entropies = monitor(features).entropies
    assert entropies["audio"].mean() < 0.2
    assert entropies["visual"].mean() > 1.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"branch_widths": {"sound": 6}}, r"branch_widths names \['sound'\]"),
        ({"branch_widths": {}}, r"branch_widths names \[\]"),
        ({"branch_widths": {"audio": 0}}, "branch_widths must be positive"),
        ({"hidden_layers": -1}, "hidden_layers must be 0"),
    ],
)
def test_invalid_option_raises(options, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        EntropyMonitorConfig(**options)


def test_every_hidden_layer_counts_for_the_size():
    """One of this width has 8e9 weights, of 1e10 that are allowed."""
    EntropyMonitorConfig(branch_widths={"audio": 90_000}, hidden_layers=1)
    with pytest.raises(StrictDataclassClassValidationError, match=r"2 hidden layers .* make about 1\.6e\+10"):
        EntropyMonitorConfig(branch_widths={"audio": 90_000}, hidden_layers=2)


FRAMES = {"audio": ((2, 2),) * 3, "visual": ((2, 3),) * 3, "fusion": ((4, 6),) * 3}


def mask_config(**options):
    defaults = {"branch_widths": WIDTHS, "branch_grids": FRAMES, "id2label": {0: "sounding"}}
    return EntropyMonitorConfig(task="audio-visual-segmentation", **(defaults | options))


@pytest.fixture
def mask_monitor():
    torch.manual_seed(0)
    return EntropyMonitor(mask_config())


@pytest.fixture
def masks():
    """Two clips of three frames of 8 x 12 pixels, the last of each without a label."""
    masks = (torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0)) > 0.5).long()
    masks[:, 2] = -100
    return masks


class TestMasks:
    def test_every_branch_tells_a_mask_a_frame(self, mask_monitor, make_tokens):
        output = mask_monitor(make_tokens(FRAMES, batch=2))
        assert {branch: tuple(value.shape) for branch, value in output.logits.items()} == {
            "audio": (2, 3, 2, 3),
            "visual": (2, 3, 2, 3),
            "fusion": (2, 3, 4, 6),
        }
        assert all(value.shape == (2,) for value in output.entropies.values())
        assert max(value.max() for value in output.entropies.values()) <= math.log(2) + 1e-6

    def test_loss_is_the_sum_of_the_branches_over_labelled_frames(self, mask_monitor, make_tokens, masks):
        tokens = make_tokens(FRAMES, batch=2)
        output = mask_monitor(tokens, labels=masks)
        expected = sum(
            nn.functional.binary_cross_entropy_with_logits(
                output.logits[branch][:, :2], pool_masks(masks, grid[0])[:, :2]
            )
            for branch, grid in (FRAMES | {"audio": FRAMES["visual"]}).items()
        )
        assert output.loss.item() == pytest.approx(expected.item())

    def test_features_and_targets_give_the_same_as_tokens_and_masks(self, mask_monitor, make_tokens, masks):
        tokens = make_tokens(FRAMES, batch=2)
        expected = mask_monitor(tokens, labels=masks)
        output = mask_monitor(mask_monitor.features(tokens), labels=mask_monitor.targets(masks))
        assert torch.equal(output.loss, expected.loss)
        assert torch.equal(output.entropies["audio"], expected.entropies["audio"])

    def test_frames_without_a_label_have_entropies_like_all_others(self, mask_monitor, make_tokens):
        tokens = make_tokens(FRAMES, batch=2)
        whole = mask_monitor(tokens).entropies
        frames = [
            mask_monitor({name: value.unflatten(1, (3, -1))[:, frame] for name, value in tokens.items()}).entropies
            for frame in range(3)
        ]
        for branch in BRANCHES:
            torch.testing.assert_close(whole[branch], torch.stack([frame[branch] for frame in frames]).mean(dim=0))

    def test_missing_branch_is_left_out(self, mask_monitor, make_tokens, masks):
        tokens = make_tokens(FRAMES, batch=2)
        output = mask_monitor({"visual": tokens["visual"], "audio": None}, labels=masks)
        assert list(output.entropies) == ["visual"]

    def test_output_is_float32_under_autocast_and_for_16_bit_tokens(self, mask_monitor, make_tokens):
        tokens = make_tokens(FRAMES, batch=2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = mask_monitor({branch: value.half() for branch, value in tokens.items()})
        assert {value.dtype for value in (output.logits | output.entropies).values()} == {torch.float32}
        torch.testing.assert_close(
            output.entropies["fusion"], mask_monitor(tokens).entropies["fusion"], atol=1e-4, rtol=1e-3
        )

    def test_the_grid_of_placeless_tokens_is_an_option(self, make_tokens):
        monitor = EntropyMonitor(mask_config(mask_grid=(1, 2)))
        assert monitor(make_tokens(FRAMES)).logits["audio"].shape == (3, 3, 1, 2)
        assert EntropyMonitor(mask_config()).config.mask_grid == (2, 3)

    def test_queries_have_no_place_in_the_picture(self, make_tokens):
        grids = FRAMES | {"fusion": ((1, 7),) * 3}
        monitor = EntropyMonitor(mask_config(branch_grids=grids))
        assert [monitor.config.on_picture(branch) for branch in BRANCHES] == [False, True, False]
        assert monitor(make_tokens(grids)).logits["fusion"].shape == (3, 3, 2, 3)

    def test_saved_monitor_is_read_back_whole(self, tmp_path, make_tokens):
        monitor = EntropyMonitor(mask_config(hidden_layers=1, entropy_over="foreground", mask_grid=(3, 3)))
        monitor.save_pretrained(tmp_path)
        loaded = AutoModel.from_pretrained(tmp_path)
        for name in ("task", "branch_widths", "branch_grids", "mask_grid", "entropy_over", "id2label", "num_labels"):
            assert getattr(loaded.config, name) == getattr(monitor.config, name)
        expected, output = monitor.eval()(make_tokens(FRAMES)), loaded(make_tokens(FRAMES))
        for branch in BRANCHES:
            assert torch.equal(output.entropies[branch], expected.entropies[branch])

    def test_probes_learn_which_branch_knows_where_it_sounds(self):
        """Visual tokens say whether their place sounds, sound says which half does, fusion is noise."""
        generator = torch.Generator().manual_seed(0)
        grids = {"audio": ((1, 2),), "visual": ((2, 2),), "fusion": ((2, 2),)}
        left = torch.arange(200) % 2
        masks = torch.stack([left, 1 - left], dim=1).view(200, 1, 1, 2).expand(200, 1, 2, 2)
        noise = {branch: torch.randn(200, 4, 6, generator=generator) for branch in ("visual", "fusion")}
        tokens = {
            "audio": nn.functional.one_hot(left, 6).float().unsqueeze(1).expand(200, 2, 6),
            "visual": 4 * nn.functional.one_hot(masks.reshape(200, 4), 6) + noise["visual"],
            "fusion": noise["fusion"],
        }
        torch.manual_seed(0)
        monitor = EntropyMonitor(mask_config(branch_grids=grids))
        optimizer = torch.optim.Adam(monitor.parameters(), lr=0.1)
        for _ in range(100):
            optimizer.zero_grad()
            monitor(tokens, labels=masks).loss.backward()
            optimizer.step()
        entropies = {branch: value.mean().item() for branch, value in monitor(tokens).entropies.items()}
        assert entropies["audio"] < 0.05
        assert entropies["visual"] < 0.15
        assert entropies["fusion"] > 0.6

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"branch_grids": None}, "needs one grid for all frames of audio, visual, fusion, got branch_grids {}"),
            ({"branch_grids": FRAMES | {"visual": ((2, 3), (3, 2))}}, "one grid for all frames of visual, got"),
            ({"mask_grid": (0, 2)}, r"mask_grid must be \(rows, columns\), both positive, got \(0, 2\)"),
            ({"entropy_over": "object"}, "unknown entropy_over 'object'; known are frame, foreground"),
        ],
    )
    def test_invalid_option_raises(self, options, message):
        with pytest.raises(StrictDataclassClassValidationError, match=message):
            mask_config(**options)


def test_unknown_task_raises():
    with pytest.raises(StrictDataclassClassValidationError, match="unknown task 'detection'"):
        EntropyMonitorConfig(task="detection")
