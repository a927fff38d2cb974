"""Runs that push: while they train, to a Hub in trouble, and without a word of the token."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import killed_jobs
import pytest
from killed_jobs import QUIET, make_teacher
from killing import Killer
from tiny_runs import make_table

from hf_emktd.training.resuming import is_whole
from hub_server import WRITE_TOKEN, HubServer

REPO = "org/student"
COMMIT = r"/commit/main$"
OPTIONS = ["--num_train_epochs", "2", "--per_device_train_batch_size", "4", "--save_strategy", "epoch", *QUIET]
OPTIONS += ["--push_to_hub", "--hub_model_id", REPO, "--hub_token", WRITE_TOKEN, "--hub_always_push", "true"]


@pytest.fixture
def killer(tmp_path) -> Killer:
    return Killer(tmp_path / "log.txt")


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture
def distil(tmp_path, hub):
    teacher = make_teacher(tmp_path / "teacher")
    (tmp_path / "clips").mkdir()
    table = make_table(tmp_path / "clips")
    data = ["--teacher", teacher, "--dataset", table, "--output_dir", tmp_path / "run"]
    return lambda *options: partial(killed_jobs.pushing, hub.url, tmp_path / "cache", *data, *OPTIONS, *options)


def assert_no_token(hub: HubServer, folder: Path) -> None:
    places = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    places |= {f"{repo}:{path}": content for repo in hub.repos for path, content in hub.files(repo).items()}
    assert [name for name, content in places.items() if WRITE_TOKEN.encode() in content] == []


def test_checkpoints_are_pushed_during_training_and_can_be_resumed(killer, hub, distil, tmp_path):
    hub.break_next("POST", COMMIT, status=503)
    killer.run(distil("--hub_strategy", "checkpoint"))
    told = hub.repos[REPO].messages
    assert told[:2] == ["Training in progress, checkpoint-3", "Training in progress, all of checkpoint-3"]
    assert told[-1] == "Upload model" and len(told) == 5
    files = hub.files(REPO)
    assert files["model.safetensors"] == (tmp_path / "run" / "model.safetensors").read_bytes()
    assert b"distillation" in files["README.md"]
    for name, content in files.items():
        if name.startswith("last-checkpoint/"):
            path = tmp_path / "elsewhere" / "checkpoint-6" / name.removeprefix("last-checkpoint/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    kept = {path.name for path in (tmp_path / "elsewhere" / "checkpoint-6").iterdir()}
    assert {"optimizer.pt", "rng_state.pth", "model.safetensors", "processor_config.json"} <= kept
    assert is_whole(tmp_path / "elsewhere" / "checkpoint-6") and "training_args.bin" not in kept
    assert not [path for path in files if "/" not in path and path.endswith((".bin", ".pt", ".pth"))]
    assert_no_token(hub, tmp_path)


@pytest.mark.torture
@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_will_be_refused_is_refused_before_training(killer, hub, distil, tmp_path, status):
    hub.break_next("POST", "repos/create", times=-1, status=status, message=f"no, {WRITE_TOKEN}")
    assert killer.wait(killer.start(distil())) == 1
    text = killer.log.read_text()
    assert "Traceback" not in text and "'loss'" not in text and not list((tmp_path / "run").glob("*"))
    assert text.splitlines()[-1].startswith("distill.py: error: could not prepare org/student")
    assert_no_token(hub, tmp_path)


@pytest.mark.torture
@pytest.mark.parametrize("strategy", ["end", "all_checkpoints"])
def test_a_hub_that_stays_in_trouble_costs_no_training(killer, hub, distil, tmp_path, strategy):
    hub.break_next("POST", COMMIT, times=-1, status=500, message=f"for {WRITE_TOKEN}")
    assert killer.wait(killer.start(distil("--hub_strategy", strategy))) == 1
    text = killer.log.read_text()
    assert "Traceback" not in text and (tmp_path / "run" / "results.json").is_file()
    assert "push again later" in text.splitlines()[-1] and "push_to_hub(" in text.splitlines()[-1]
    assert ("training goes on" in text) == (strategy != "end")
    assert_no_token(hub, tmp_path)
    hub.faults.clear()
    killer.run(distil("--hub_strategy", strategy, "--resume_from_checkpoint", "last"))
    assert hub.files(REPO)["model.safetensors"] == (tmp_path / "run" / "model.safetensors").read_bytes()
