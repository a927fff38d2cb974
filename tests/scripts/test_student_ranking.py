"""The benchmark that trains students and asks which predictor ranks them."""

from __future__ import annotations

import json
import runpy
from argparse import Namespace

import pytest
from script_runs import ONE_EPOCH, SCRIPTS
from transformers import AutoModel

BENCHMARK = SCRIPTS.parent / "benchmarks" / "student_ranking.py"
OPTIONS = ["--students", "3", "--max_params", "10k", "--initialisations", "2", "--jobs", "1", "--objective", "kd"]
FINISHED = {"largest": 0.5, "middle": 0.25}


@pytest.fixture(scope="module")
def ranking(workplace, teacher, tmp_path_factory):
    """A folder in which two of three runs were finished before the benchmark was called."""
    folder = tmp_path_factory.mktemp("ranking")
    benchmark = runpy.run_path(str(BENCHMARK))
    chosen = benchmark["choose_students"](
        AutoModel.from_pretrained(teacher), Namespace(students=3, max_params="10k", min_params="1")
    )
    for student, accuracy in zip(chosen, FINISHED.values(), strict=False):
        run = folder / "students" / benchmark["name_of"](student) / "seed_0"
        run.mkdir(parents=True)
        (run / "results.json").write_text(json.dumps({"results": {"both": {"accuracy": accuracy}}}))
    ended = workplace.run(BENCHMARK, "--teacher", teacher, "--output_dir", folder, *OPTIONS, *ONE_EPOCH)
    assert ended.status == 0, ended.err
    return folder


def test_only_the_missing_run_is_done(ranking):
    results = json.loads((ranking / "results.json").read_text())
    assert results["accuracy"][:2] == [[accuracy] for accuracy in FINISHED.values()]
    assert 0 <= results["accuracy"][2][0] <= 1
    (log,) = ranking.glob("students/*/seed_0/log.txt")
    assert AutoModel.from_pretrained(log.parent).num_parameters() == results["predictors"]["parameters"][2]


def test_results(ranking):
    results = json.loads((ranking / "results.json").read_text())
    assert {"DisWOT, random teacher", "DisWOT, trained teacher", "parameters", "MACs"} <= results["predictors"].keys()
    assert all(own.keys() == {"spearman", "kendall"} for own in results["correlations"].values())
    assert results["correlations"]["parameters"]["kendall"]["beyond_baseline"] == 0
    table = (ranking / "table.md").read_text()
    assert "| parameters |" in table and all(fields in table for fields in map(" ".join, results["students"]))
    assert (ranking / "table.png").is_file()


def test_runs_with_other_options_are_not_mixed_in(workplace, teacher, ranking):
    command = [BENCHMARK, "--teacher", teacher, "--output_dir", ranking, *OPTIONS, *ONE_EPOCH]
    ended = workplace.run_here(*command, "--learning_rate", "0.1")
    assert ended.status == 1 and "holds runs with other options" in ended.err
