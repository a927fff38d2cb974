from __future__ import annotations

from hf_emktd.benchmark import Row
from hf_emktd.benchmark.suites import EVENTS
from hf_emktd.benchmark.tuning import Choice, by_option, candidates, settings, stages, with_followed

KD = Row("KD", ("kd",), "kd.weight")
KTD = Row("KTD + KD", ("ktd", "kd"), "ktd.weight", follows={"kd.weight": "KD"})
AT = Row("AT + KD", ("at", "kd"), "at.weight", follows={"kd.weight": "KD"})
BOTH = Row("both", ("at", "ktd", "kd"), "at.weight", follows={"ktd.weight": "KTD + KD", "kd.weight": "KD"})
PAIR = Row("pair", ("at", "ktd"), "at.weight x ktd.weight", follows={"kd.weight": "KD"})
KNOWN = {row.name: row for row in (KD, KTD, AT, BOTH, PAIR)}


def test_rows_follow_those_that_choose_for_them():
    rows = with_followed([BOTH, AT], KNOWN)
    assert [row.name for row in rows] == ["KD", "KTD + KD", "both", "AT + KD"]
    assert [[row.name for row in stage] for stage in stages(rows)] == [["KD"], ["KTD + KD", "AT + KD"], ["both"]]


def test_the_grid_lies_around_the_default():
    assert candidates(AT, EVENTS) == ["100", "1000", "10000"]
    assert candidates(KTD, EVENTS, (0.3, 1, 3)) == ["0.3", "1", "3"]
    # its constructor hands the weight to the base class
    assert candidates(Row("EM-KTD", ("em_ktd",), "em_ktd.weight"), EVENTS) == ["0.1", "1", "10"]
    assert candidates(Row("labels only", tuned="--weight_decay", values=("0", "0.1")), EVENTS) == ["0", "0.1"]
    assert candidates(Row("fixed", ("kd",)), EVENTS) == []


def test_two_weights_are_chosen_in_all_combinations():
    values = candidates(PAIR, EVENTS, (1, 10))
    assert values == ["1000 x 1", "1000 x 10", "10000 x 1", "10000 x 10"]
    assert by_option(PAIR.tuned, values[1]) == {"at.weight": "1000", "ktd.weight": "10"}
    choices = {"KD": Choice("kd.weight", {"1": (0.9, 0.8)}), "pair": Choice(PAIR.tuned, {"1000 x 10": (0.5, 0.5)})}
    assert settings(PAIR, choices) == {"kd.weight": "1", "at.weight": "1000", "ktd.weight": "10"}


def test_settings_are_ones_own_choice_and_those_followed():
    choices = {
        "KD": Choice("kd.weight", {"0.1": (0.8, 0.9), "1": (0.9, 0.8), "10": (0.7, 0.9)}),
        "KTD + KD": Choice("ktd.weight", {"1": (0.5, 0.5)}),
        "both": Choice("at.weight", {}),
    }
    assert settings(KTD, choices) == {"kd.weight": "1", "ktd.weight": "1"}
    # every run of its own choice failed: the default stays
    assert settings(BOTH, choices) == {"ktd.weight": "1", "kd.weight": "1"}
    assert settings(BOTH, {}) == {}


def test_the_second_metric_decides_between_equals():
    assert Choice("kd.weight", {"0.1": (0.9, 0.9), "1": (0.9, 0.95), "10": (0.8, 1.0)}).value == "1"
