from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, constants
from transformers import AutoModel, AutoProcessor

from hf_emktd import whole_files
from hf_emktd.hub import DistillationSummary, PublishError, publish, push_to_hub, save_for_hub
from hub_server import READ_TOKEN, WRITE_TOKEN

REPO = "org/emktd-student"

# loads the model in a process of its own and saves its logits
_READ_BACK = """
import sys, torch
{preamble}
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained("{repo}"{options}).eval()
processor = AutoProcessor.from_pretrained("{repo}"{options})
assert processor.image_processor.image_size == 32
assert type(model).__module__.startswith("{module}") and type(processor).__module__.startswith("{module}")
with torch.inference_mode():
    torch.save(model(**torch.load(sys.argv[1])).logits, sys.argv[2])
"""


@pytest.fixture
def student(model, processor, summary, tmp_path) -> Path:
    return save_for_hub(model, processor, tmp_path / "student", summary)


def python(code: str, *args: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], env=env, capture_output=True, text=True, check=False
    )


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def auto_maps(directory: Path) -> list[dict[str, str]]:
    return [
        json.loads((directory / name).read_text())["auto_map"] for name in ("config.json", "processor_config.json")
    ]


class BrokenProcessor:
    def save_pretrained(self, directory: Path) -> None:
        raise OSError("disk full")


def test_a_saved_student_is_whole(student, model, processor, inputs, summary):
    assert {"config.json", "model.safetensors", "processor_config.json", "README.md", "distillation.json"} <= set(
        files(student)
    )
    torch.testing.assert_close(AutoModel.from_pretrained(student).eval()(**inputs).logits, model(**inputs).logits)
    loaded = AutoProcessor.from_pretrained(student)
    assert loaded.feature_extractor.to_dict() == processor.feature_extractor.to_dict()
    assert loaded.image_processor.to_dict() == processor.image_processor.to_dict()
    assert DistillationSummary.load(student) == summary
    (student.parent / "ordinary").mkdir()
    assert student.stat().st_mode == (student.parent / "ordinary").stat().st_mode


def test_a_student_that_was_loaded_is_saved_with_its_code(student, summary, tmp_path):
    again = save_for_hub(
        AutoModel.from_pretrained(student), AutoProcessor.from_pretrained(student), tmp_path / "b", summary
    )
    assert set(files(again)) == set(files(student))
    assert auto_maps(again) == auto_maps(student) != []


def test_saving_again_replaces_the_model_and_nothing_else(student, model, processor, summary):
    (student / "checkpoint-1").mkdir()
    (student / "checkpoint-1" / "optimizer.pt").write_bytes(b"state")
    (student / "model-00001-of-00002.safetensors").write_bytes(b"shard of an older save")
    summary.limitations = ["Saved twice."]
    save_for_hub(model, processor, student, summary)
    assert "Saved twice." in (student / "README.md").read_text()
    assert (student / "checkpoint-1" / "optimizer.pt").read_bytes() == b"state"
    assert [path.name for path in student.glob("*.safetensors")] == ["model.safetensors"]
    assert [path.name for path in student.parent.iterdir()] == ["student"]


def test_a_failed_save_changes_nothing(student, model, summary):
    before = files(student)
    with pytest.raises(OSError, match="disk full"):
        save_for_hub(model, BrokenProcessor(), student, summary)
    with pytest.raises(OSError, match="disk full"):
        save_for_hub(model, BrokenProcessor(), student.with_name("other"), summary)
    assert files(student) == before
    assert [path.name for path in student.parent.iterdir()] == ["student"]


def test_a_killed_save_leaves_no_half_directory(student, model, processor, summary):
    before = files(student)
    code = """
import os, signal, sys
from hf_emktd import CavMaeForAudioVisualClassification
from hf_emktd.hub import DistillationSummary, save_for_hub
class Killed:
    def save_pretrained(self, directory):
        assert (directory / "model.safetensors").exists()
        os.kill(os.getpid(), signal.SIGKILL)
model = CavMaeForAudioVisualClassification.from_pretrained(sys.argv[1])
save_for_hub(model, Killed(), sys.argv[1], DistillationSummary.load(sys.argv[1]))
"""
    assert python(code, student).returncode == -signal.SIGKILL
    left = [path for path in student.iterdir() if path.name.startswith(".")]
    assert len(left) == 1 and {name: content for name, content in files(student).items() if name[0] != "."} == before
    save_for_hub(model, processor, student, summary)
    assert files(student) == before


def test_a_save_that_is_killed_while_it_moves_is_never_a_mixture(student, model, processor, summary, monkeypatch):
    class Killed(Exception):
        """At the place of the SIGKILL."""

    rename = os.replace

    def kill_at(count):
        def replace(source, target):
            nonlocal count
            count -= Path(target).parent == student
            if count < 0:
                raise Killed
            rename(source, target)

        return replace

    other = copy.deepcopy(model)
    torch.nn.init.ones_(other.classifier.dense.weight)
    for moved in range(len(files(student))):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(whole_files.os, "replace", kill_at(moved))
            save_for_hub(other, processor, student, summary)
        assert not (student / "config.json").exists()
        with pytest.raises(ValueError, match=r"config\.json"):
            AutoModel.from_pretrained(student)
    save_for_hub(other, processor, student, summary)
    assert (AutoModel.from_pretrained(student).classifier.dense.weight == 1).all()


def test_a_file_in_the_way_is_refused(model, processor, summary, tmp_path):
    (tmp_path / "student").write_text("")
    with pytest.raises(NotADirectoryError, match="Choose another name"):
        save_for_hub(model, processor, tmp_path / "student", summary)


def test_push_uploads_the_model_and_no_leftovers(this_hub, student):
    (student / "checkpoint-1").mkdir()
    (student / "checkpoint-1" / "optimizer.pt").write_bytes(b"state")
    (student / "training_args.bin").write_bytes(b"pickle")
    commit = push_to_hub(student, REPO, token=WRITE_TOKEN, commit_message="First student")
    expected = {
        name: content for name, content in files(student).items() if name.count("/") == 0 and ".bin" not in name
    }
    assert this_hub.files(REPO) == expected
    assert this_hub.repos[REPO].messages == ["First student"]
    assert str(commit).startswith(f"{this_hub.url}/{REPO}/")
    assert ModelCard(this_hub.files(REPO)["README.md"].decode()).data.base_model == "org/teacher"


# one file for each pattern of what stays behind
LEFT_BEHIND = {
    "checkpoint-*": "checkpoint-7/config.json",
    "runs/*": "runs/today/events.out",
    "*.bin": "training_args.bin",
    "*.pt": "optimizer.pt",
    "*.pth": "old.pth",
    ".[!e]*": ".clips.abc/clips.json",
    ".e[!v]*": ".env",
    "*/.*": "entropy_monitor/.all.saving-host-1-0/config.json",
    "results.json": "results.json",
    "evaluation.json": "evaluation.json",
    "clips.json": "clips.json",
    "trainer_state.json": "trainer_state.json",
}


def test_every_pattern_keeps_a_file_back_that_no_other_does(this_hub, student, monkeypatch):
    assert list(LEFT_BEHIND) == publish._NOT_PUSHED
    expected = set(files(student))
    for name in LEFT_BEHIND.values():
        (student / name).parent.mkdir(parents=True, exist_ok=True)
        (student / name).write_text(name)
    push_to_hub(student, REPO, token=WRITE_TOKEN)
    assert set(this_hub.files(REPO)) == expected
    for pattern, name in LEFT_BEHIND.items():
        monkeypatch.setattr(publish, "_NOT_PUSHED", [other for other in LEFT_BEHIND if other != pattern])
        push_to_hub(student, f"org/without-{list(LEFT_BEHIND).index(pattern)}", token=WRITE_TOKEN)
        arrived = this_hub.files(f"org/without-{list(LEFT_BEHIND).index(pattern)}")
        assert set(arrived) == expected | {name}, pattern


def test_entries_for_a_leaderboard_arrive(this_hub, model, processor, summary, tmp_path):
    summary.data.benchmark_task = "events"
    student = save_for_hub(model, processor, tmp_path / "student", summary)
    push_to_hub(student, REPO, token=WRITE_TOKEN)
    entries = (student / ".eval_results" / "events.yaml").read_bytes()
    assert this_hub.files(REPO)[".eval_results/events.yaml"] == entries


def test_a_second_push_sends_only_what_changed(this_hub, student):
    push_to_hub(student, REPO, token=WRITE_TOKEN)
    this_hub.requests.clear()
    (student / "README.md").write_text("---\nlicense: apache-2.0\n---\nshort\n")
    push_to_hub(student, REPO, token=WRITE_TOKEN)
    assert this_hub.files(REPO)["README.md"].endswith(b"short\n")
    assert not [path for method, path in this_hub.requests if method == "PUT"]


def test_push_to_a_branch_of_a_private_repository(this_hub, student):
    push_to_hub(student, "emktd-student", token=WRITE_TOKEN, private=True, revision="v2")
    repo_id = "tester/emktd-student"
    assert this_hub.repos[repo_id].private
    assert this_hub.files(repo_id) == {}
    assert set(this_hub.files(repo_id, "v2")) == set(files(student))


@pytest.mark.parametrize(("token", "way_out"), [("wrong", "hf auth login"), (READ_TOKEN, "use one with write access")])
def test_a_refused_push_names_the_way_out(this_hub, student, token, way_out):
    with pytest.raises(PublishError, match=way_out) as failure:
        push_to_hub(student, REPO, token=token)
    assert REPO in str(failure.value) and this_hub.url in str(failure.value)
    assert this_hub.repos == {}


def test_an_upload_that_breaks_off_is_a_publish_error(this_hub, student, monkeypatch):
    monkeypatch.setattr(publish, "RETRY_SECONDS", ())
    monkeypatch.setattr("hub_server.sha256", lambda content: "0" * 64)
    with pytest.raises(PublishError, match="push again later"):
        push_to_hub(student, REPO, token=WRITE_TOKEN)
    assert this_hub.files(REPO) == {}


def test_an_unreachable_hub_is_a_publish_error(student, monkeypatch):
    monkeypatch.setattr(publish, "RETRY_SECONDS", (0.01,))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(PublishError, match=r"127\.0\.0\.1:9.*\n.*push again later"):
        push_to_hub(student, REPO, token=WRITE_TOKEN)


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="save_for_hub"):
        push_to_hub(tmp_path, REPO, token=WRITE_TOKEN)


@pytest.mark.parametrize(
    ("preamble", "options", "module"),
    [
        pytest.param("import hf_emktd", "", "hf_emktd.models", id="with the package"),
        pytest.param(
            "sys.modules['hf_emktd'] = None",
            ", trust_remote_code=True",
            "transformers_modules.org",
            id="without the package",
        ),
    ],
)
def test_a_pushed_student_is_read_back_in_a_fresh_process(
    this_hub, student, model, inputs, tmp_path, preamble, options, module
):
    push_to_hub(student, REPO, token=WRITE_TOKEN)
    torch.save(inputs, tmp_path / "inputs.pt")
    code = _READ_BACK.format(preamble=preamble, options=options, module=module, repo=REPO)
    env = this_hub.environment(tmp_path / "cache", token=None)
    done = python(code, tmp_path / "inputs.pt", tmp_path / "logits.pt", env=env)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), model(**inputs).logits, rtol=0, atol=1e-6)
