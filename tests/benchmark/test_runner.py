from __future__ import annotations

from dataclasses import replace

import pytest
from written_runs import write_run

from hf_emktd.benchmark import suite_rows
from hf_emktd.benchmark.suites import EVENTS, Row
from hf_emktd.benchmark.tuning import Choice
from hf_emktd.distillation import EntropyMonitor, EntropyMonitorConfig, fingerprint
from hf_emktd.distillation.token_codes import PlainTokens, TokenRelations
from hf_emktd.training import CacheManifest

ROWS = {row.name: row for suite in ("paper", "resolution", "monitor", "kernels") for row in suite_rows(EVENTS, suite)}


def option(run, name: str) -> list[str]:
    """The values of an option of a run."""
    after = run.command[run.command.index(name) + 1 :]
    return after[: next((i for i, word in enumerate(after) if word.startswith("--")), len(after))]


def test_a_row_is_a_command(benchmark):
    benchmark.student_options = ["--student_fields", "modality_specific_depth=2", "--num_train_epochs", "10"]
    benchmark.data_options = ["--dataset", "clips.csv"]
    run = benchmark.student_run(ROWS["KD, half the picture"], 3)
    assert run.title == "KD, half the picture, seed 3" and run.folder.parent.name == "kd-half-the-picture"
    assert option(run, "--objective") == ["kd"] and option(run, "--seed") == ["3"]
    assert option(run, "--student_fields") == ["modality_specific_depth=2", "image_size=16"]
    assert option(run, "--num_train_epochs") == ["10"] and option(run, "--dataset") == ["clips.csv"]
    assert option(run, "--output_dir") == [str(run.folder)] and option(run, "--teacher") == [benchmark.teacher]
    assert option(benchmark.student_run(ROWS["labels only"], 0), "--objective") == ["none"]


def test_choices_reach_the_rows_that_follow(benchmark):
    benchmark.choices = {
        "labels only": Choice("--label_smoothing_factor", {"0.2": (0.5, 0.5)}),
        "KD": Choice("kd.weight", {"10": (0.5, 0.5)}),
        "EM-KTD + EM-clip-KTD + KD": Choice("em_ktd.weight x em_clip_ktd.weight", {"0.1 x 1": (0.5, 0.5)}),
    }
    assert option(benchmark.student_run(ROWS["labels only"], 0), "--label_smoothing_factor") == ["0.2"]
    run = benchmark.student_run(ROWS["EM-KTD + EM-clip-KTD + KD"], 0)
    assert sorted(option(run, "--objective_options")) == ["em_clip_ktd.weight=1", "em_ktd.weight=0.1", "kd.weight=10"]


def test_other_options_are_other_folders(benchmark):
    run = benchmark.student_run(ROWS["KD"], 0)
    assert run == benchmark.student_run(ROWS["KD"], 0)
    folders = {run.folder, benchmark.student_run(ROWS["KD"], 1).folder}
    benchmark.choices["KD"] = Choice("kd.weight", {"10": (0.5, 0.5)})
    folders.add(benchmark.student_run(ROWS["KD"], 0).folder)
    benchmark.student_options = ["--num_train_epochs", "3"]
    folders.add(benchmark.student_run(ROWS["KD"], 0).folder)
    assert len(folders) == 4


def test_the_monitor_is_the_teachers_own_where_it_has_one(benchmark):
    linear, hidden = ROWS["EM-KTD + KD"], ROWS["EM-KTD, 1 hidden layer + KD"]
    assert "--monitor" not in benchmark.student_run(ROWS["KD"], 0).command
    trained = option(benchmark.student_run(linear, 0), "--monitor")[0]
    assert trained.startswith(str(benchmark.output_dir / "monitor_0-"))
    config = EntropyMonitorConfig(branch_widths={"audio": 4, "visual": 4, "fusion": 4}, id2label={0: "a", 1: "b"})
    folders = set()
    for _ in range(2):
        EntropyMonitor(config).save_pretrained(f"{benchmark.teacher}/entropy_monitor")
        benchmark = replace(benchmark)  # which has not looked yet
        assert option(benchmark.student_run(linear, 0), "--monitor") == [benchmark.teacher]
        folders.add(benchmark.student_run(linear, 0).folder)
    assert len(folders) == 2  # another monitor in the same place makes other students
    assert "monitor_1-" in option(benchmark.student_run(hidden, 0), "--monitor")[0]
    benchmark = replace(benchmark, monitor_options=["--num_train_epochs", "1"])
    assert "monitor_0-" in option(benchmark.student_run(linear, 0), "--monitor")[0]


def test_the_weight_of_kd_is_chosen_first_and_taken_along(benchmark, monkeypatch):
    """The runs themselves are replaced by their results: the one with the largest weight of all is the best."""
    stages = []

    def execute(runs):
        stages.append([run.title for run in runs])
        for run in runs:
            weights = [float(value.partition("=")[2]) for value in option(run, "--objective_options")]
            assert option(run, "--split") == ["validation"] and option(run, "--seed") == ["1000"]
            write_run(run, {"both": {"accuracy": sum(weights) / 1e5, "mAP": 0.5}}, {})

    monkeypatch.setattr(benchmark.executor, "execute", execute)
    benchmark.tune([ROWS["AT + KD"]])
    assert stages == [
        ["KD, tune 0.1", "KD, tune 1", "KD, tune 10"],
        ["AT + KD, tune 100", "AT + KD, tune 1000", "AT + KD, tune 10000"],
    ]
    run = benchmark.student_run(ROWS["AT + KD"], 0)
    assert option(run, "--objective_options") == ["kd.weight=10", "at.weight=10000"]
    assert "--split" not in run.command
    benchmark.expect([ROWS["AT + KD"]], seeds=3, tuned=True)
    assert benchmark.executor.expected == 9


@pytest.mark.parametrize("codec", [TokenRelations(), PlainTokens()])
@pytest.mark.parametrize("joint", [False, True])
def test_rows_that_a_teacher_cache_serves_read_it(benchmark, tmp_path, codec, joint):
    monitor = EntropyMonitor(EntropyMonitorConfig(branch_widths={"audio": 4, "fusion": 4}, id2label={0: "a", 1: "b"}))
    monitor.save_pretrained(tmp_path / "teacher" / "entropy_monitor")
    source = {"monitor": fingerprint(monitor)}
    manifest = CacheManifest(source, codec.to_dict(), 4, 1, 0, 4, 4, logits=[2], grids={})
    manifest.save(tmp_path)
    option_words = [f"--teacher_cache={tmp_path}"] if joint else ["--teacher_cache", str(tmp_path)]
    benchmark.student_options = ["--num_train_epochs", "3", *option_words]
    served = {name for name, row in ROWS.items() if benchmark.is_cached(row)}
    assert {"labels only", "KD", "EM-KTD + KD", "MTST + KD", "KTD linear + KD", "KD, half the picture"} <= served
    assert "EM-KTD, 1 hidden layer + KD" not in served  # another monitor
    assert ("VkD + KD" in served) == ("SPKD + KD" in served) == (codec.name == "tokens")
    for name in ("EM-KTD + KD", "VkD + KD"):
        command = benchmark.student_run(ROWS[name], 0).command
        assert any(str(tmp_path) == word.rpartition("=")[2] for word in command) == (name in served)
        assert option(benchmark.student_run(ROWS[name], 0), "--num_train_epochs") == ["3"]


def test_what_a_row_reads_follows_from_the_options_of_its_objectives(benchmark, tmp_path):
    """Relations of clips need the tokens themselves where these are flattened, and their means where not."""
    manifest = CacheManifest({"monitor": None}, TokenRelations().to_dict(), 4, 1, 0, 4, 4, logits=[2], grids={})
    manifest.save(tmp_path)
    cache = ["--teacher_cache", str(tmp_path)]
    flat = ["--objective_options", "clip_ktd.pooling=flatten"]
    row = Row("clip-KTD", ("clip_ktd",))
    others = Row("KD", ("kd",))
    benchmark.student_options = cache
    assert benchmark.is_cached(row) and "--teacher_cache" in benchmark.student_run(row, 0).command
    in_row, tuned = replace(row, options=tuple(flat)), replace(row, tuned="clip_ktd.pooling", values=("flatten",))
    assert not benchmark.is_cached(in_row) and "--teacher_cache" not in benchmark.student_run(in_row, 0).command
    assert not benchmark.is_cached(tuned, {"clip_ktd.pooling": "flatten"})
    assert benchmark.is_cached(tuned)  # before it is chosen
    (run,) = benchmark._tuning_runs(tuned).values()
    assert "--teacher_cache" not in run.command
    benchmark.choices[tuned.name] = Choice("clip_ktd.pooling", {"flatten": (0.5, 0.5)})
    assert not benchmark.is_cached(tuned)
    benchmark = replace(benchmark, choices={}, student_options=[*cache, *flat])
    assert not benchmark.is_cached(row) and benchmark.is_cached(others)
