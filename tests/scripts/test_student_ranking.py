"""The benchmark that trains students and asks which predictor ranks them."""

from __future__ import annotations

import json

import pytest
from script_runs import ONE_EPOCH, SCRIPTS

BENCHMARK = SCRIPTS.parent / "benchmarks" / "student_ranking.py"
OPTIONS = ["--students", "3", "--max_params", "10k", "--initialisations", "2", "--jobs", "1", "--objective", "kd"]


@pytest.fixture(scope="module")
def ranking(workplace, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranking")
    ended = workplace.run(BENCHMARK, "--teacher", teacher, "--output_dir", folder, *OPTIONS, *ONE_EPOCH)
    assert ended.status == 0, ended.err
    return folder


def test_results(ranking):
    results = json.loads((ranking / "results.json").read_text())
    assert len(results["students"]) == len(results["accuracy"]) == 3
    assert {"DisWOT, random teacher", "DisWOT, trained teacher", "parameters", "MACs"} <= results["predictors"].keys()
    for own in results["correlations"].values():
        assert own.keys() == {"spearman", "kendall"}
    assert results["correlations"]["parameters"]["kendall"]["beyond_baseline"] in (0, None)
    table = (ranking / "table.md").read_text()
    assert "| parameters |" in table and (ranking / "table.png").is_file()


def test_finished_runs_are_not_repeated_and_others_not_mixed_in(workplace, teacher, ranking):
    runs = sorted(ranking.glob("students/*/seed_0/results.json"))
    assert len(runs) == 3
    before = [path.stat().st_mtime_ns for path in runs]
    (lost, *_), command = runs, [BENCHMARK, "--teacher", teacher, "--output_dir", ranking, *OPTIONS, *ONE_EPOCH]
    lost.unlink()
    assert workplace.run(*command).status == 0
    after = [path.stat().st_mtime_ns for path in runs]
    assert after[0] > before[0] and after[1:] == before[1:]
    ended = workplace.run(*command, "--learning_rate", "0.1")
    assert ended.status == 1 and "holds runs with other options" in ended.err
