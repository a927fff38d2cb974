"""A Hub that is in trouble: what is tried again, what is said, and what nobody gets to see."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from hf_emktd.distillation import EntropyMonitor, EntropyMonitorConfig
from hf_emktd.hub import PublishError, publish, push_to_hub, save_for_hub
from hf_emktd.training import MONITOR_FOLDER, find_monitor, load_model
from hub_server import WRITE_TOKEN, Repo

REPO = "org/student"
CREATE, COMMIT, LFS, WEIGHTS = r"repos/create$", r"/commit/main$", r"^/lfs/", r"^/cdn/"


@pytest.fixture
def student(model, processor, summary, tmp_path) -> Path:
    return save_for_hub(model, processor, tmp_path / "student", summary)


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(publish, "RETRY_SECONDS", (0.01, 0.01))


def push(student):
    return push_to_hub(student, REPO, token=WRITE_TOKEN)


def asked(hub, method, part) -> int:
    return sum(each == method and part in path for each, path in hub.requests)


def is_whole(hub, student) -> bool:
    names = {path.name for path in student.iterdir() if path.is_file()}
    files = hub.files(REPO)
    return set(files) == names and files["model.safetensors"] == (student / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"method": "POST", "pattern": CREATE, "status": 500}, id="500 while creating"),
        pytest.param({"method": "POST", "pattern": CREATE, "drop": "before"}, id="no answer while creating"),
        pytest.param({"method": "POST", "pattern": CREATE, "drop": "after"}, id="created, not answered"),
        pytest.param({"method": "POST", "pattern": COMMIT, "status": 503, "times": 2}, id="503 for the commit, twice"),
        pytest.param({"method": "POST", "pattern": COMMIT, "status": 409}, id="409, another commit"),
        pytest.param({"method": "POST", "pattern": COMMIT, "status": 412}, id="412, a commit before"),
        pytest.param({"method": "POST", "pattern": COMMIT, "drop": "half"}, id="half an answer to the commit"),
        pytest.param({"method": "POST", "pattern": COMMIT, "drop": "after"}, id="committed, not answered"),
        pytest.param({"method": "PUT", "pattern": LFS, "status": 500}, id="500 for the weights"),
        pytest.param({"method": "PUT", "pattern": LFS, "drop": "before"}, id="no answer for the weights"),
        pytest.param({"method": "POST", "pattern": r"/preupload/", "seconds": 0.3}, id="a slow answer"),
    ],
)
def test_what_passes_is_tried_again(this_hub, student, fault):
    this_hub.break_next(**fault)
    push(student)
    assert is_whole(this_hub, student)
    assert this_hub.repos[REPO].messages == ["Upload model"]


def test_a_hub_that_is_asked_too_often_says_how_long_to_wait(this_hub, student):
    this_hub.break_next("POST", CREATE, status=429, headers={"Retry-After": "1"})
    started = time.monotonic()
    push(student)
    assert time.monotonic() - started >= 1 and is_whole(this_hub, student)


def test_a_repository_that_appears_meanwhile_is_used(this_hub, student):
    this_hub.break_next("POST", CREATE, meanwhile=lambda: this_hub.repos.setdefault(REPO, Repo(private=True)))
    push(student)
    assert is_whole(this_hub, student) and this_hub.repos[REPO].private


@pytest.mark.parametrize(
    ("status", "way_out"), [(401, "hf auth login"), (403, "with write access"), (404, "Check the name")]
)
def test_what_is_refused_is_said_at_once(this_hub, student, status, way_out):
    this_hub.break_next("POST", CREATE, status=status, times=-1)
    with pytest.raises(PublishError, match=way_out):
        push(student)
    assert asked(this_hub, "POST", "create") == 1


def test_trouble_that_stays_is_one_message(this_hub, student):
    before = {path.name: path.read_bytes() for path in student.iterdir()}
    this_hub.break_next("POST", COMMIT, status=500, times=-1)
    with pytest.raises(PublishError, match=r"500.*\n.*push again later"):
        push(student)
    assert asked(this_hub, "POST", "/commit/") == 3
    assert {path.name: path.read_bytes() for path in student.iterdir()} == before
    this_hub.faults.clear()
    push(student)
    assert is_whole(this_hub, student)
    assert asked(this_hub, "PUT", "/lfs/") == 1  # the weights had arrived


def test_a_name_that_cannot_be_is_refused(this_hub, student):
    with pytest.raises(PublishError, match="Check the name"):
        push_to_hub(student, "org/a name", token=WRITE_TOKEN)


def test_no_token_in_what_is_said(this_hub, student, caplog):
    this_hub.break_next("POST", CREATE, status=500, times=-1, message=f"cannot work for {WRITE_TOKEN}")
    with pytest.raises(PublishError) as failure:
        push(student)
    assert "cannot work for" in str(failure.value) and WRITE_TOKEN not in str(failure.value)
    assert WRITE_TOKEN not in caplog.text


class TestDownload:
    @pytest.fixture(autouse=True)
    def _published(self, this_hub, student, monkeypatch):
        push(student)
        this_hub.requests.clear()

    @staticmethod
    def is_the_same(loaded, model) -> bool:
        return all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())

    @pytest.mark.parametrize("drop", ["half", "before"])
    def test_a_connection_that_ends_is_taken_up_again(self, this_hub, model, drop):
        this_hub.break_next("GET", WEIGHTS, drop=drop)
        assert self.is_the_same(load_model(REPO)[0], model)
        assert asked(this_hub, "GET", "/cdn/") == 2

    def test_a_slow_body(self, this_hub, model):
        this_hub.break_next("GET", WEIGHTS, seconds=1.0)
        assert self.is_the_same(load_model(REPO)[0], model)

    def test_weights_with_another_hash_are_refused_and_forgotten(self, this_hub, model):
        this_hub.break_next("GET", WEIGHTS, wrong=True)
        with pytest.raises(ValueError, match=r"model\.safetensors came damaged from the Hub.*try again"):
            load_model(REPO)
        assert self.is_the_same(load_model(REPO)[0], model)

    def test_without_a_connection_it_comes_from_the_cache(self, this_hub, model, monkeypatch):
        load_model(REPO)
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        started = time.monotonic()
        assert self.is_the_same(load_model(REPO)[0], model)
        assert time.monotonic() - started < 10

    @pytest.mark.parametrize(
        ("name", "reason"),
        [("teacher", "there is no folder 'teacher'"), ("org/nobody", "cannot be reached.*hf download org/nobody")],
    )
    def test_an_unknown_name_is_said_at_once(self, name, reason, monkeypatch):
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        started = time.monotonic()
        with pytest.raises(ValueError, match=reason):
            load_model(name)
        assert time.monotonic() - started < 10


HEAD_OF_MONITOR = f"{MONITOR_FOLDER}/config.json$"


class TestMonitor:
    """Whether there is one decides what a run does: only the Hub's own answer says that there is none."""

    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch):
        """huggingface_hub asks again for 23 seconds."""
        monkeypatch.setattr(time, "sleep", lambda _: None)

    @pytest.fixture
    def monitored(self, this_hub, student, model):
        config = EntropyMonitorConfig(branch_widths=dict(model.config.branch_widths), id2label=model.config.id2label)
        EntropyMonitor(config).save_pretrained(student / MONITOR_FOLDER)
        push(student)

    @pytest.mark.parametrize(
        "fault",
        [
            pytest.param({"method": "HEAD", "pattern": HEAD_OF_MONITOR, "status": 500}, id="500"),
            pytest.param({"method": "HEAD", "pattern": HEAD_OF_MONITOR, "drop": "before"}, id="no answer"),
            pytest.param({"method": "GET", "pattern": HEAD_OF_MONITOR, "status": 500}, id="500 for the config"),
        ],
    )
    def test_trouble_is_not_taken_for_none(self, this_hub, monitored, fault):
        this_hub.break_next(**fault, times=-1)
        with pytest.raises(ValueError, match=rf"does not say whether {REPO} has {MONITOR_FOLDER}/config\.json.*again"):
            find_monitor(REPO)
        this_hub.faults.clear()
        assert find_monitor(REPO) is not None

    def test_weights_that_do_not_come(self, this_hub, monitored):
        this_hub.break_next("HEAD", f"{MONITOR_FOLDER}/model.safetensors$", status=500, times=-1)
        with pytest.raises(ValueError, match=r"cannot be loaded: .*Try again"):
            find_monitor(REPO)

    def test_none_is_remembered_with_the_model(self, this_hub, student, monkeypatch):
        push(student)
        load_model(REPO)
        assert find_monitor(REPO) is None
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        assert find_monitor(REPO) is None

    def test_without_a_connection_the_cache_does_not_know(self, this_hub, monitored, monkeypatch):
        load_model(REPO)
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(ValueError, match="HF_HUB_OFFLINE=1 to go on with what is in the cache"):
            find_monitor(REPO)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert find_monitor(REPO) is None
