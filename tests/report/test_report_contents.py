"""Whole pages: of a run that is all there, of hostile names, and of runs that parts are missing of."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from report_runs import COMMAND, LOG, Page, make_run

from hf_emktd.hub import DistillationSummary
from hf_emktd.report import ReportOptions, make_report, read_run
from hf_emktd.training import DataArguments

SECTIONS = {"header", "lineage", "results", "curves", "classes", "entropies", "grams", "faithful", "environment"}


def page_of(folder, **options) -> Page:
    data = DataArguments(feature_workers=1)
    return Page(make_report(read_run(folder), ReportOptions(batch_size=4, **options), data))


def check_self_contained(page: Page) -> None:
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            assert value.startswith(("data:image/png;base64,", "#")), (tag, name, value)
    assert not re.search(r"@import|url\(\s*['\"]?\s*(?!#)[a-z/]", page.html)


@pytest.fixture(scope="module")
def page(finished) -> Page:
    return page_of(finished / "student")


def test_every_section_is_there(page):
    assert page.sections.keys() == SECTIONS and not page.left_out()
    check_self_contained(page)
    assert page.html.startswith("<!DOCTYPE html>")
    assert page.tags.count("svg") == 3 + 3


def test_what_was_distilled_from_what(page):
    header, lineage = page.sections["header"], page.sections["lineage"]
    assert "student was distilled from teacher on clips.csv." in header
    assert "40.0%" in header and "50.0%" in header and "of the teacher's 80.0%" in header
    cells = [cell.strip() for cell in re.split(r"\n|(?<=>)", lineage) if cell.strip()]
    assert "em_ktd" in lineage and "kernel.name: rbf" in lineage and "kd" in lineage
    assert any("taskthe labels2" in cell for cell in cells)
    assert any("train14122" in cell for cell in cells)  # in the table, used, silent


def test_how_the_kernel_was_chosen(tmp_path):
    student = make_run(tmp_path) / "student"
    trials = {"linear, weight x 1": [0.5, 0.25], "rbf gamma 2, weight x 10": [0.625, 0.5]}
    (student / "results.json").write_text(json.dumps({"kernel_trials": trials}))
    lineage = page_of(student).sections["lineage"]
    assert "linear, weight x 1: 0.500; rbf gamma 2, weight x 10: 0.625." in lineage


def test_results_costs_and_environment(page):
    assert "test: sound and pictureAccuracy40.0%80.0%50.0%" in page.sections["results"]
    assert "mAP50.0%50.0%100.0%" in page.sections["results"] and "latency of a clip (ms)" in page.sections["results"]
    environment = page.sections["environment"]
    assert COMMAND in environment and "Training took 1 min 15 s." in environment and "learning_rate0.05" in environment
    assert "0 throughout and not drawn: auxiliary." in page.sections["curves"]


def test_clips_are_shown_in_the_order_of_their_divergence(page):
    text = page.sections["faithful"]
    assert "all clips of" in text and "branchGram differenceweight" in text
    values = [float(number) for number in re.findall(r"KL \(nats\)([\d.]+)", text)]
    assert len(values) == 6  # three of seven at either end
    assert values[:3] == sorted(values[:3]) and values[3:] == sorted(values[3:], reverse=True)
    assert values[2] <= values[5]
    assert len(re.findall(r"tokens", page.sections["grams"])) >= 9


def test_a_student_that_is_its_teacher_is_faithful_throughout(finished, tmp_path):
    for name in ("teacher", "student"):
        shutil.copytree(finished / "teacher", tmp_path / name)
    shutil.copy(finished / "student" / "distillation.json", tmp_path / "student")
    text = page_of(tmp_path / "student").sections
    assert set(re.findall(r"KL \(nats\)(under 0.001|[\d.]+)", text["faithful"])) == {"under 0.001"}
    assert set(re.findall(r"(?:audio|visual|fusion)(\d\.\d\d)\d\.\d\d", text["faithful"])) == {"0.00"}
    assert not re.search(r"[+\N{MINUS SIGN}]\d+\.\d", text["classes"])


def test_hostile_names_are_text(clip_cache, tmp_path):
    attack = "</style></script><script>alert(1)</script><img src=x onerror=alert(1)>"
    labels = ['"><svg/onload=alert(1)>', "%s {{ 7 * 7 }} {0.__class__}", attack]
    name = "<b>\x1b[31m\u202e$x^2$ {% raw %}"
    folder = make_run(tmp_path, labels, name, command=f"python {attack} '{{{{ 7 * 7 }}}}'")
    page = page_of(folder / "student")
    check_self_contained(page)
    assert not page.left_out() and "b" in page.tags  # the headline numbers
    assert "alert(1)" not in " ".join(value for _, _, value in page.attributes)
    shown = page.sections["faithful"] + page.sections["classes"]
    assert (
        all(label in shown for label in labels) and "49" not in page.sections["environment"].partition("Training")[0]
    )
    mark = "\N{REPLACEMENT CHARACTER}"
    assert f"<b>{mark}[31m{mark}$x^2$ {{% raw %}}" in page.sections["faithful"]
    assert attack in page.sections["environment"]
    assert "\x1b" not in page.html and "\u202e" not in page.html


def test_a_student_that_only_hears(clip_cache, tmp_path):
    folder = make_run(tmp_path, student_fields={"modalities": ["audio"]}, objectives=[])
    page = page_of(folder / "student")
    assert (
        not page.left_out() and "was trained on labels alone on clips.csv, for comparison" in page.sections["header"]
    )
    assert "visual" not in page.sections["grams"] and "audio, 16 tokens" in page.sections["grams"]
    assert "Rank correlation" in page.sections["entropies"] and page.tags.count("img") > 12


def test_without_clips_nothing_is_loaded(finished, tmp_path):
    shutil.copytree(finished / "student", tmp_path / "student")
    (tmp_path / "student" / "model.safetensors").unlink()
    page = page_of(tmp_path / "student", clips=False)
    assert page.left_out().keys() == {"classes", "entropies", "grams", "faithful"}
    assert "Left out: --no_clips" in page.sections["grams"] and page.tags.count("svg") == 3
    check_self_contained(page)


def test_what_is_not_there_any_more_is_told(finished, tmp_path, caplog):
    shutil.copytree(finished / "student", tmp_path / "moved")
    page = page_of(tmp_path / "moved")
    assert page.left_out().keys() == {"classes", "entropies", "grams", "faithful"}
    assert all("the teacher, teacher, is not there any more" in text for text in page.left_out().values())
    assert "Weights and latency of the teacher: the teacher, teacher, is not there" in page.sections["results"]
    with_teacher = page_of(tmp_path / "moved", teacher=str(finished / "teacher"))
    assert not with_teacher.left_out()


def test_clips_that_are_gone(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "runs")
    config = tmp_path / "runs" / "student" / "config.json"
    config.write_text(config.read_text().replace("clips.csv", "gone.csv"))
    page = page_of(tmp_path / "runs" / "student")
    assert page.left_out().keys() == {"classes", "entropies", "grams", "faithful"}
    assert "gone.csv" in page.sections["grams"] and "latency" in page.sections["results"]


def test_no_monitor(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "teacher" / "entropy_monitor")
    page = page_of(tmp_path / "runs" / "student")
    assert page.left_out().keys() == {"entropies"}
    assert "there is no entropy monitor beside the teacher or the run" in page.sections["entropies"]
    assert "branchGram difference" in page.sections["faithful"] and "weight0" not in page.sections["faithful"]


def test_a_teacher_has_entropies_of_its_own(finished, tmp_path):
    shutil.copytree(finished / "teacher", tmp_path / "teacher")
    summary = DistillationSummary.load(finished / "student")
    DistillationSummary(student=summary.teacher, data=summary.data).save(tmp_path / "teacher")
    page = page_of(tmp_path / "teacher")
    assert "teacher was trained on labels on clips.csv, without a teacher." in page.sections["header"]
    assert page.left_out().keys() == {"results", "curves", "classes", "grams", "faithful"}
    assert "Left out: the run had no teacher." in page.sections["grams"]
    assert "Rank correlation" in page.sections["entropies"] and "train\N{EN DASH}122" in page.sections["lineage"]


def test_a_run_that_has_not_ended(finished, tmp_path):
    (tmp_path / "checkpoint-8").mkdir()
    shutil.copy(finished / "student" / "trainer_state.json", tmp_path / "checkpoint-8")
    page = page_of(tmp_path)
    assert page.left_out().keys() == SECTIONS - {"curves"}
    assert page.tags.count("svg") == 3 and LOG[0]["epoch"] == 1.0
