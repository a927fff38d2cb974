"""Two processes on the CPU (gloo): what one process with the same global batch computes, they compute."""

from __future__ import annotations

import json

import distributed_driver
import pytest
from launching import launch


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> dict[str, dict]:
    """Results of every run of the driver on two processes."""
    folder = tmp_path_factory.mktemp("two")
    ended = launch("distributed_driver.py", folder)
    assert ended.status == 0, ended.said[-6000:]
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in distributed_driver.RUNS}


@pytest.fixture
def one(tmp_path):
    """The same run on one process, here."""
    return lambda name: distributed_driver.RUNS[name](tmp_path / name)


def assert_same_logs(one: list[dict], two: list[dict], rel: float = 1e-4) -> None:
    assert len(one) == len(two) > 0
    for expected, line in zip(one, two, strict=True):
        assert line.keys() == expected.keys()
        for name, value in expected.items():
            assert line[name] == pytest.approx(value, rel=rel), (name, expected["step"])


@pytest.mark.parametrize("name", ["distil", "augmented", "modality_dropout", "checkpointed", "across_clips"])
def test_same_losses_and_weights(one, two, name):
    expected, result = one(name), two[name]
    assert (expected["processes"], result["processes"]) == (1, 2)
    assert_same_logs(expected["log"], result["log"])
    first, second = result["ranks"]
    assert first["checksum"] == second["checksum"] == pytest.approx(expected["ranks"][0]["checksum"], rel=1e-4)


def test_masks_are_learnt_and_measured_together(one, two):
    expected, result = one("masks"), two["masks"]
    assert_same_logs(expected["log"], result["log"])
    assert result["ranks"] == [pytest.approx(expected["ranks"][0], rel=1e-4)] * 2


def test_every_rank_drops_the_same_modality(one, two):
    first, second = two["modality_dropout"]["ranks"]
    assert first["inputs"] == second["inputs"] == one("modality_dropout")["ranks"][0]["inputs"]
    assert {len(names) for names in first["inputs"]} == {1, 2}


def test_checkpointing_activations_changes_nothing(two):
    assert_same_logs(two["modality_dropout"]["log"], two["checkpointed"]["log"], rel=1e-5)


def test_a_resumed_run_equals_the_uninterrupted_one(two):
    assert two["resumed"]["log"] == two["straight"]["log"]
    assert two["resumed"]["checksum"] == two["straight"]["checksum"]


def test_ranks_stream_a_share_each_and_learn_together(two):
    first, second = two["streamed"]["ranks"]
    assert len(first["clips"]) == len(second["clips"]) == 6 and first["steps"] == second["steps"] == 2
    assert set(first["clips"]) | set(second["clips"]) == {f"train{index}" for index in range(12)}
    assert first["checksum"] == second["checksum"]


def test_metrics_over_all_clips_on_every_rank(one, two):
    (expected,) = one("evaluation")["ranks"]
    assert two["evaluation"]["ranks"] == [pytest.approx(expected)] * 2


def test_evaluation_of_a_data_set_over_all_clips_on_every_rank(one, two):
    (expected,) = one("evaluate_data")["ranks"]
    assert expected["both"][-1] == 7
    for rank in two["evaluate_data"]["ranks"]:
        assert rank == {sense: pytest.approx(values) for sense, values in expected.items()}


def test_monitor_statistics_are_those_of_all_clips(one, two):
    (expected,) = one("monitor")["ranks"]
    assert expected["clips"] == [7, 5]
    for rank in two["monitor"]["ranks"]:
        assert rank["clips"] == [7, 5] and rank["labels"] == expected["labels"]
        for split, branches in expected["statistics"].items():
            for branch, measured in branches.items():
                for name, value in measured.items():
                    assert rank["statistics"][split][branch][name] == pytest.approx(value, rel=1e-4), (split, branch)


def test_fsdp2_shards_the_teacher_and_leaves_its_signal(two):
    result = two["sharded"]
    assert result["kinds"] == ["DTensor"] and result["share"] == pytest.approx(0.5, abs=0.02)
    assert not result["requires_grad"]
    assert result["difference"] < 1e-5 and result["entropy_difference"] < 1e-5
