"""The page of real runs, as the script writes it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from report_runs import Page


def test_of_a_distilled_student(workplace, student):
    ended = workplace.run_here("report.py", "--run", student, "--max_clips", "16")
    assert ended.status == 0, ended.err
    assert ended.out.splitlines()[-1] == str(student / "report.html")
    page = Page((student / "report.html").read_text())
    # two steps are fewer than --logging_steps
    assert page.left_out().keys() == {"curves"} and "nothing was logged" in page.sections["curves"]
    assert "16 random ones of 20 clips of touchtone" in page.sections["classes"]
    assert "em_ktd" in page.sections["lineage"] and "latency of a clip (ms)" in page.sections["results"]
    assert "scripts/distill.py" in page.sections["environment"]


def test_without_clips_and_elsewhere(workplace, teacher, tmp_path):
    ended = workplace.run_here("report.py", "--run", teacher, "--no_clips", "--output", tmp_path / "new" / "page.html")
    assert ended.status == 0 and "Left out" not in ended.err
    assert "without a teacher" in (tmp_path / "new" / "page.html").read_text()
    assert not (teacher / "report.html").exists()


def test_refusals(workplace, tmp_path):
    refused = [
        ([], 2, "--run is needed"),
        (["--run", tmp_path, "--max_clips", "0"], 2, "max_clips must be at least 1"),
        (["--run", tmp_path], 1, "is not the output_dir of a run"),
    ]
    for options, status, reason in refused:
        ended = workplace.run_here("report.py", *options)
        assert ended.status == status and reason in ended.err.splitlines()[-1] and "Traceback" not in ended.err
