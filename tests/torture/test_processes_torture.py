"""One, two and four processes learn the same; whatever happens to one of them, the others do not wait for it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import distributed_driver
import pytest
from accelerate.state import AcceleratorState
from launching import Ended, launch

pytestmark = pytest.mark.torture

SAME_CURVES = ("distil", "across_clips", "modality_dropout", "masks")


@pytest.fixture(scope="module")
def by_processes(tmp_path_factory) -> dict[int, dict[str, list[dict[str, float]]]]:
    """The logged losses of every run on one, two and four processes with the same global batch."""
    logs = {}
    for processes in (2, 4):
        folder = tmp_path_factory.mktemp(f"on{processes}")
        ended = launch("distributed_driver.py", folder, *SAME_CURVES, processes=processes)
        assert ended.status == 0, ended.said[-6000:]
        logs[processes] = {name: json.loads((folder / f"{name}.json").read_text())["log"] for name in SAME_CURVES}
    folder = tmp_path_factory.mktemp("on1")
    logs[1] = {name: distributed_driver.RUNS[name](folder / name)["log"] for name in SAME_CURVES}
    AcceleratorState._reset_state(reset_partial_state=True)
    return logs


@pytest.mark.parametrize("name", SAME_CURVES)
def test_one_two_and_four_processes_have_the_same_loss_curve(by_processes, name):
    one = by_processes[1][name]
    for processes in (2, 4):
        log = by_processes[processes][name]
        assert len(log) == len(one) > 1
        for expected, line in zip(one, log, strict=True):
            assert line == pytest.approx(expected, rel=1e-4), (processes, expected["step"])


def run(folder: Path, fault: str, processes: int) -> Ended:
    return launch("faulty_ranks_driver.py", folder, fault, processes=processes)


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raise", "RuntimeError: this rank has had enough"),
        ("kill", "Signal 9 (SIGKILL) received"),
        ("nan", "FloatingPointError: loss_task"),
    ],
)
def test_a_rank_that_dies_brings_the_others_down_within_a_minute(tmp_path, fault, reason, processes):
    ended = run(tmp_path, fault, processes)
    assert ended.status != 0 and time.time() - (tmp_path / f"{fault}.fault").stat().st_mtime < 60
    assert f"rank      : {processes - 1}" in ended.root_cause and reason in ended.root_cause
    assert not (tmp_path / f"{fault}.json").exists()


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("fault", ["skip", "uneven", "one_shard", "corrupt"])
def test_a_rank_that_has_less_than_the_others_holds_nobody_up(tmp_path, fault, processes):
    ended = run(tmp_path, fault, processes)
    assert ended.status == 0, ended.said[-6000:]
    result = json.loads((tmp_path / f"{fault}.json").read_text())
    assert len({rank["checksum"] for rank in result["ranks"]}) == 1
    assert all(line["loss"] == line["loss"] for line in result["log"])
    seen = {clip for rank in result["ranks"] for clip in rank["clips"]}
    if fault == "skip":
        assert result["log"][-1]["skipped_batches"] == 1 and "the batch is skipped" in ended.said
    if fault == "uneven":
        assert seen == {f"clip{index}" for index in range(13)}
    if fault == "one_shard":
        assert len(seen) == 12
    if fault == "corrupt":
        assert len(seen) == 10 and "is left out" in ended.said
