from __future__ import annotations

import pytest

from hf_emktd.benchmark import SUITES, Row, missing_objectives, suite_rows
from hf_emktd.benchmark.suites import EVENTS, MASKS, TIMES
from hf_emktd.benchmark.tuning import candidates

ROWS = [(task, row) for task, suites in SUITES.items() for name in suites for row in suite_rows(task, name)]


@pytest.mark.parametrize("task", SUITES)
def test_every_objective_exists(task):
    assert {row.name: missing_objectives(row, task) for own, row in ROWS if own == task and row.objectives} == {
        row.name: [] for own, row in ROWS if own == task and row.objectives
    }


@pytest.mark.parametrize("task", SUITES)
def test_rows_of_one_name_are_one_row(task):
    by_name: dict[str, Row] = {}
    for own, row in ROWS:
        if own == task:
            assert by_name.setdefault(row.name, row) == row


@pytest.mark.parametrize(("task", "row"), ROWS, ids=lambda value: getattr(value, "name", value))
def test_every_row_can_be_tuned_and_compared(task, row):
    known = {other.name: other for own, other in ROWS if own == task}
    assert row.reference in known
    values = candidates(row, task)
    tuned = row.tuned.split(TIMES) if row.tuned else []
    assert len(set(values)) == len(values) == (3 ** len(tuned) if tuned else 0)
    assert tuned or "auto" in row.options
    for option, followed in row.follows.items():
        assert option.partition(".")[0] in row.objectives and known[followed].tuned == option


def test_the_weight_of_kd_is_that_of_kd_alone():
    for task, row in ROWS:
        if "kd" in row.objectives and len(row.objectives) > 1:
            followed = row.follows["kd.weight"]
            assert followed.startswith("KD"), (task, row.name)


def test_a_group_is_compared_with_its_own_kind():
    rows = {row.name: row for row in suite_rows(EVENTS, "resolution")}
    row = rows["EM-KTD + KD, half the picture"]
    assert row.reference == "KD, half the picture" and row.follows == {"kd.weight": "KD, half the picture"}
    assert row.student_fields == ("image_size={half_image_size}",)
    assert row.paper == "60.0 / 59.9 / 97.5"
    assert {row.modality for row in suite_rows(EVENTS, "cross_modal")} == {"audio", "visual"}


def test_the_papers_numbers():
    events = {row.name: row.paper for row in suite_rows(EVENTS, "paper")}
    assert events["EM-KTD + KD"] == "62.0 / 63.4 / 97.9" and events["KTD"] == ""
    masks = {row.name: row.paper for row in suite_rows(MASKS, "paper")}
    assert masks["EM-KTD"] == "79.81 / 87.86" and masks["EM-KTD + KD"] == ""


def test_an_unknown_suite_is_refused():
    with pytest.raises(ValueError, match="cross_modal' for audio-visual-segmentation; known: paper"):
        suite_rows(MASKS, "cross_modal")
