from __future__ import annotations

import json

import numpy as np
import pytest

from hf_emktd.analysis import (
    Estimate,
    Pair,
    Setting,
    best_sources,
    compare_branches,
    compare_with_gains,
    complementarity,
    complementarity_dict,
    complementarity_markdown,
    draw_complementarity,
    label_entropy,
)
from hf_emktd.analysis.complementarity import ESTIMATORS


def estimate(nats, error=0.1):
    return Estimate(nats, nats - 1.96 * error, nats + 1.96 * error, error)


def pair(teacher, student, shared, told=1.0, error=0.1):
    """`shared` by the two estimators, or one number for both."""
    both = shared if isinstance(shared, tuple) else (shared, shared)
    return Pair(
        teacher,
        student,
        {name: estimate(value, error) for name, value in zip(ESTIMATORS, both, strict=True)},
        dict.fromkeys(ESTIMATORS, estimate(told, error)),
        crosses={teacher, student} == {"audio", "visual"},
    )


@pytest.fixture
def pairs():
    return [
        pair("audio", "visual", 2.0),
        pair("visual", "visual", 3.0),
        pair("fusion", "visual", (2.5, 3.5)),
        pair("audio", "fusion", 0.2),
    ]


@pytest.fixture
def setting():
    sizes = {"clips": 1000, "components": 4, "label_entropy": 2.3, "ceiling": 5.8}
    return Setting(teacher="runs/teacher", student="runs/student", dataset="touchtone", split="test", **sizes)


def test_margin_is_shared_minus_told_with_both_errors():
    margin = pair("audio", "visual", 2.0, error=0.3).margins[ESTIMATORS[0]]
    assert margin.nats == pytest.approx(1.0)
    assert margin.standard_error == pytest.approx(0.3 * np.sqrt(2))
    assert margin.low == pytest.approx(1 - 1.96 * 0.3 * np.sqrt(2))


@pytest.mark.parametrize(
    "shared, error, advice",
    [
        (2.0, 0.1, "distil"),
        (0.2, 0.1, "do not"),
        (1.2, 0.1, "unclear"),  # within the interval
        (2.0, 0.5, "unclear"),
        ((2.0, 0.2), 0.1, "unclear"),  # the estimators disagree
        ((2.0, 1.1), 0.1, "unclear"),
    ],
)
def test_advice_needs_both_estimators_and_their_intervals(shared, error, advice):
    assert pair("audio", "visual", shared, error=error).advice == advice


def test_what_has_only_heard_crosses_to_what_has_only_seen(monkeypatch):
    for name in ("neighbour_information", "held_out_information"):
        monkeypatch.setattr(complementarity, name, lambda *args, **options: estimate(1.0))
    for name in ("neighbour_label_information", "held_out_label_information"):
        monkeypatch.setattr(complementarity, name, lambda *args: estimate(1.0))
    both = dict.fromkeys(("audio", "visual", "fusion"), np.zeros(3))
    crossing = {one.name for one in compare_branches(both, both, np.zeros(3)) if one.crosses}
    assert crossing == {"audio->visual", "visual->audio"}
    seeing = dict.fromkeys(("visual", "fusion"), np.zeros(3))
    crossing = {one.name for one in compare_branches(both, seeing, np.zeros(3)) if one.crosses}
    assert crossing == {"audio->visual", "audio->fusion"}


def test_best_source_of_each_branch(pairs):
    assert best_sources(pairs) == {
        "visual": {"nearest neighbours": "visual", "learned bound": "fusion"},
        "fusion": {"nearest neighbours": "audio", "learned bound": "audio"},
    }


def test_label_entropy_by_hand():
    assert label_entropy(np.array([3, 3, 5, 7])) == pytest.approx(1.5 * np.log(2))


def test_branches_that_share_are_found():
    """The student hears what the teacher hears; the teacher's picture is noise."""
    random = np.random.default_rng(0)
    labels = random.integers(3, size=300)
    sound = np.eye(3)[labels] @ random.standard_normal((3, 4)) + random.standard_normal((300, 4))
    teacher = {"audio": sound @ random.standard_normal((4, 6)), "visual": random.standard_normal((300, 6))}
    student = {"audio": sound + 0.2 * random.standard_normal((300, 4))}
    found = {one.name: one for one in compare_branches(teacher, student, labels)}
    assert list(found) == ["audio->audio", "visual->audio"]
    assert found["audio->audio"].advice == "distil"
    assert found["visual->audio"].advice == "do not"
    for name in ESTIMATORS:
        assert abs(found["visual->audio"].shared[name].nats) < 0.15
        assert found["audio->audio"].told[name] == found["visual->audio"].told[name]
        assert found["audio->audio"].told[name].nats > 0.2


class TestGains:
    def test_agreement(self, pairs):
        gains = {"audio->visual": -0.5, "visual->visual": 2.0, "audio->fusion": -1.0}
        agreement = compare_with_gains(pairs, gains)
        assert (agreement.decided, agreement.right, agreement.gained) == (3, 2, 1)
        # margins 1, 2, -0.8 against -0.5, 2, -1: the same order
        assert agreement.rank_correlations == {name: pytest.approx(1.0) for name in ESTIMATORS}

    def test_unclear_pairs_are_ranked_but_not_counted(self, pairs):
        unclear = pair("visual", "fusion", 1.0)
        gains = {"audio->visual": 1.0, "visual->fusion": 3.0, "visual->visual": 2.0}
        agreement = compare_with_gains([*pairs, unclear], gains)
        assert (agreement.decided, agreement.right) == (2, 2)
        assert agreement.rank_correlations[ESTIMATORS[0]] == pytest.approx(-0.5)

    def test_two_pairs_have_no_order(self, pairs):
        agreement = compare_with_gains(pairs, {"audio->visual": 1.0, "visual->visual": 2.0})
        assert set(agreement.rank_correlations.values()) == {None}

    def test_gains_of_no_pair_are_refused(self, pairs):
        with pytest.raises(ValueError, match=r"gains of visual->audio, which are no pairs .*: audio->visual, "):
            compare_with_gains(pairs, {"visual->audio": 1.0})


def test_report_says_what_to_do_and_that_it_is_contested(pairs, setting):
    text = complementarity_markdown(setting, pairs, None)
    assert "| audio | visual * | 2.00 [1.80, 2.20] | 1.00 [0.80, 1.20] |" in text
    assert "student's **visual** branch: distil from the teacher's audio, visual, fusion, do not from none" in text
    assert "student's **fusion** branch: distil from the teacher's none, do not from audio" in text
    assert "contested" in text and "rejected" in text and "Measured" not in text


def test_report_compares_with_gains(pairs, setting):
    agreement = compare_with_gains(pairs, {"audio->visual": -0.5, "visual->visual": 2.0, "audio->fusion": -1.0})
    text = complementarity_markdown(setting, pairs, agreement)
    assert "the hypothesis decides 3, and is right about 2 of them" in text
    assert "distil every one would have been right about 1" in text and "+1.00 by the learned bound" in text
    assert text.splitlines()[6].endswith("| distil | -0.5 |")
    found = complementarity_dict(setting, pairs, agreement)
    assert json.loads(json.dumps(found))["pairs"]["audio->visual"]["advice"] == "distil"
    assert found["agreement"]["right"] == 2


def test_picture_has_a_panel_for_gains(pairs, tmp_path):
    assert len(draw_complementarity(pairs).axes) == 2
    figure = draw_complementarity(pairs, compare_with_gains(pairs, {"audio->visual": 1.0}))
    assert [axis.get_title() for axis in figure.axes] == [*ESTIMATORS, "advice and gain"]
    assert figure.axes[0].get_yticklabels()[0].get_text() == "audio → visual *"
    figure.savefig(tmp_path / "picture.png")
