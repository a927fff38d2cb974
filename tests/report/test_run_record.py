from __future__ import annotations

import json
import shutil

import pytest
from report_runs import LOG

from hf_emktd.report import LeftOut, read_run
from hf_emktd.report.left_out import attempt


def test_all_that_a_run_leaves(finished):
    record = read_run(finished / "student")
    assert record.title == "student" and record.log == LOG and record.results == {}
    assert record.clips["rows"]["train"] == 14 and record.summary.teacher.title == "teacher"


def test_the_teacher_is_found_where_the_run_stood(finished, tmp_path, monkeypatch):
    assert read_run(finished / "student").find_teacher() == str(finished.resolve() / "teacher")
    shutil.copytree(finished / "student", tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="the teacher, teacher, is not there any more; --teacher names"):
        read_run(tmp_path / "elsewhere").find_teacher()
    monkeypatch.chdir(finished)
    assert read_run(tmp_path / "elsewhere").find_teacher() == "teacher"


def test_a_run_that_has_not_ended(tmp_path):
    checkpoint = tmp_path / "checkpoint-8"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text(json.dumps({"log_history": LOG}))
    record = read_run(tmp_path)
    assert record.log == LOG and not record.has_teacher and record.title == tmp_path.name
    assert record.summary == LeftOut("distillation.json is not there: it is written when a run has ended.")


def test_broken_files_are_left_out(tmp_path):
    (tmp_path / "distillation.json").write_text('{"student": {"weight": 1}}')
    (tmp_path / "trainer_state.json").write_text("[1, 2")
    (tmp_path / "clips.json").write_text("[]")
    record = read_run(tmp_path)
    assert "not a distillation summary" in record.summary.reason
    assert "trainer_state.json is no JSON file" in record.log.reason
    assert record.clips.reason == "clips.json must hold a JSON object, got list."


@pytest.mark.parametrize("name", ["", "absent"])
def test_no_run(tmp_path, name):
    with pytest.raises(ValueError, match="is not the output_dir of a run: it should hold"):
        read_run(tmp_path / name)


def test_an_attempt_says_why_it_failed():
    assert attempt(int, "7") == 7
    assert attempt(int, "x") == LeftOut("invalid literal for int() with base 10: 'x'")
    assert attempt(int, LeftOut("first")) == LeftOut("first")
