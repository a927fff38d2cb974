from __future__ import annotations

import json

import numpy as np
import pytest
from written_runs import write_run

from hf_emktd.benchmark import Report, draw_suite, suite_rows
from hf_emktd.benchmark.pictures import learning_curve
from hf_emktd.benchmark.suites import EVENTS, MASKS
from hf_emktd.benchmark.tuning import Choice

TEACHER = {"both": {"accuracy": 0.9, "mAP": 0.95}}


def rows_named(task, *names):
    rows = {row.name: row for row in suite_rows(task, "paper")}
    return [rows[name] for name in names]


def finish(benchmark, row, accuracies, **record):
    for seed, accuracy in accuracies.items():
        write_run(benchmark.student_run(row, seed), {"both": {"accuracy": accuracy, "mAP": 0.8}}, TEACHER, **record)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def table_of(report: Report) -> dict[str, list[str]]:
    """Cells of the first table by method."""
    lines = report.to_markdown().split("\n\n")[1].splitlines()
    assert len({len(cells(line)) for line in lines}) == 1
    return {cells(line)[0]: cells(line)[1:] for line in lines}


def test_a_table_of_paired_seeds(benchmark):
    kd, em_ktd, _ = rows = rows_named(EVENTS, "KD", "EM-KTD + KD", "SPKD + KD")
    benchmark.choices["KD"] = Choice("kd.weight", {"1": (0.7, 0.7), "10": (0.8, 0.7)})
    finish(benchmark, kd, {0: 0.70, 1: 0.60, 2: 0.65})
    finish(benchmark, em_ktd, {0: 0.72, 1: 0.65, 2: 0.66}, peak_memory=1.25e9)
    table = table_of(Report(benchmark, {"paper": rows}, 3))
    assert table["method"][:5] == ["options", "accuracy", "mAP", "retention", "difference to KD (95 %)"]
    assert table["method"][-1] == "*the paper, not ours: VGGSound: accuracy / mAP / mAUC*"
    assert table["teacher"] == ["", "90.0 %", "95.0 %", "100.0 %", "", "", "", "*63.9 / 65.0 / 97.9*"]
    assert table["KD"] == [
        *("kd.weight 10", "65.0 ± 5.0 %", "80.0 %", "72.2 %", ""),
        *("10.0", "0.50 GB", "*56.1 / 57.3 / 97.1*"),
    ]
    # 2, 5 and 1 points; of 27 resampled means the extremes have a share of 1 / 27 each
    assert table["EM-KTD + KD"][:5] == ["kd.weight 10", "67.7 ± 3.8 %", "80.0 %", "75.2 %", "+2.7 [+1.0, +5.0]"]
    assert table["EM-KTD + KD"][6] == "1.25 GB"
    assert table["SPKD + KD"] == ["kd.weight 10", "not run yet", *[""] * 5, "*55.6 / 56.1 / 96.6*"]


def test_what_validation_said(benchmark):
    benchmark.choices = {"KD": Choice("kd.weight", {"0.1": (0.7, 0.7), "1": (0.8, 0.7)}), "x": Choice("--y", {})}
    report = Report(benchmark, {"paper": rows_named(EVENTS, "KD")}, 1)
    lines = report.to_markdown().split("## What validation said\n\n")[1].splitlines()[2:4]
    assert lines == ["| KD | kd.weight | 0.1: 70.0, **1: 80.0** |", "| x | y | failed |"]


def test_failed_rows_are_told(benchmark):
    kd, em_ktd = rows = rows_named(EVENTS, "KD", "EM-KTD + KD")
    finish(benchmark, kd, {0: 0.7})
    benchmark.executor.failed = {benchmark.student_run(row, 1).folder for row in rows}
    benchmark.executor.failed.add(benchmark.student_run(em_ktd, 0).folder)
    table = table_of(Report(benchmark, {"paper": rows}, 2))
    assert table["KD"][1] == "70.0 % (1 of 2 seeds, 1 failed)"
    assert table["EM-KTD + KD"][1] == "failed"


def test_another_reference(benchmark):
    kd, em_ktd = rows = rows_named(EVENTS, "KD", "EM-KTD + KD")
    finish(benchmark, kd, {0: 0.7, 1: 0.6})
    finish(benchmark, em_ktd, {0: 0.8})
    table = table_of(Report(benchmark, {"paper": rows}, 2, reference="EM-KTD + KD"))
    assert table["method"][4] == "difference to EM-KTD + KD (95 %)"
    assert (table["KD"][4], table["EM-KTD + KD"][4]) == ("-10.0", "")


def test_rows_with_references_of_their_own_name_them(benchmark):
    rows = [row for row in suite_rows(EVENTS, "init") if row.name in ("KD", "KD, inherited")]
    finish(benchmark, rows[0], {0: 0.7})
    finish(benchmark, rows[1], {0: 0.75})
    table = table_of(Report(benchmark, {"init": rows}, 1))
    assert table["method"][4] == "difference to KD (95 %)" and table["KD, inherited"][4] == "+5.0"
    rows += [row for row in suite_rows(EVENTS, "init") if row.name.startswith("EM-KTD + KD")]
    finish(benchmark, rows[2], {0: 0.8})
    finish(benchmark, rows[3], {0: 0.9})
    table = table_of(Report(benchmark, {"init": rows}, 1))
    assert table["method"][4] == "difference (95 %)"
    assert table["EM-KTD + KD, inherited"][4] == "+10.0 to EM-KTD + KD"


def test_results_hold_what_repeats_a_run(benchmark):
    (kd,) = rows = rows_named(EVENTS, "KD")
    finish(benchmark, kd, {0: 0.7, 1: 0.5})
    Report(benchmark, {"paper": rows}, 2).save()
    results = json.loads((benchmark.output_dir / "results.json").read_text())
    row = results["rows"]["KD"]
    assert results["suites"] == {"paper": ["KD"]} and results["teacher"]["results"] == TEACHER
    assert row["scores"]["accuracy"] == {"0": 0.7, "1": 0.5} and row["means"]["accuracy"] == 0.6
    assert row["seconds_per_epoch"] == 10.0 and row["retention"] == pytest.approx(2 / 3)
    run = row["runs"]["1"]
    assert run["command"].startswith("python scripts/distill.py --teacher") and "--seed 1" in run["command"]
    assert (run["manifest_hash"], run["versions"], run["code"]) == ("0123456789abcdef", {"torch": "2.12"}, "abc")
    assert (benchmark.output_dir / "table.md").read_text().startswith("## paper\n\n| method |")


def test_masks_with_their_controls(mask_benchmark):
    (kd,) = rows = rows_named(MASKS, "KD")
    values = {"both": {"MJ": 0.76, "MF": 0.89}, "swapped_sound": {"MJ": 0.03, "MF": 0.1}}
    values["silence"] = {"mask_share": 0.001}
    write_run(mask_benchmark.student_run(kd, 0), values, values)
    table = table_of(Report(mask_benchmark, {"paper": rows}, 1))
    assert table["method"][1:3] == ["MJ", "MF"] and table["method"][5:7] == ["MJ, other sound", "claimed in silence"]
    assert table["KD"][1:7] == ["76.0 %", "89.0 %", "100.0 %", "", "3.00 %", "0.10 %"]
    assert table["KD"][-1] == "*76.86 / 86.29*"


def test_a_student_that_only_hears_is_measured_against_all_that_its_teacher_has(benchmark):
    kd = next(row for row in suite_rows(EVENTS, "cross_modal") if row.name == "KD, sound only")
    results = {"audio": {"accuracy": 0.45, "mAP": 0.5}}
    write_run(benchmark.student_run(kd, 0), results, {**TEACHER, "audio": {"accuracy": 0.1, "mAP": 0.2}})
    table = table_of(Report(benchmark, {"cross_modal": [kd]}, 1))
    assert table["teacher"][1] == "90.0 %"
    assert table["KD, sound only"][1:4] == ["45.0 %", "50.0 %", "50.0 %"]


def test_learning_curves_beside_final_numbers(benchmark, tmp_path):
    kd, _ = rows = rows_named(EVENTS, "KD", "SPKD + KD")
    finish(benchmark, kd, {0: 0.7, 1: 0.6})
    history = benchmark.student_run(kd, 1).folder / "trainer_state.json"
    history.write_text(json.dumps({"log_history": [{"epoch": 1.0, "eval_accuracy": 0.3}, {"epoch": 2.0}]}))
    report = Report(benchmark, {"paper": rows}, 2)
    epochs, means = learning_curve(report.rows["KD"], "accuracy")
    assert epochs.tolist() == [1.0, 2.0]
    np.testing.assert_allclose(means, [0.4, 0.7])
    draw_suite(report, rows, tmp_path / "paper.png")
    assert (tmp_path / "paper.png").read_bytes().startswith(b"\x89PNG")
