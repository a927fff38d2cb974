"""A large model is adapted to a table's classes and teaches at once; a student is adapted too."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import close_session, constants
from script_runs import ONE_EPOCH
from transformers import AutoModel

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from tiny_runs import LABELS, make_model, make_table

from hf_emktd import AudioVisualEncoderForAudioVisualClassification, CavMaeProcessor
from hf_emktd.distillation import EntropyMonitor
from hf_emktd.distillation.teacher import fingerprint
from hf_emktd.hub import DistillationSummary, push_to_hub
from hf_emktd.training import MONITOR_FOLDER, load_model
from hub_server import NO_PROXY, WRITE_TOKEN
from tiny_encoders import make_audio_config, make_config

ADAPTER = {"adapter_config.json", "adapter_model.safetensors", "config.json", "processor_config.json", "README.md"}
THREE_EPOCHS = [*ONE_EPOCH, "--num_train_epochs", "3"]  # the learning rate of the first step is 0
SIZES = {"patch_size": 4, "hidden_size": 16, "num_attention_heads": 2}

# loads a published adapter in a process that has neither it nor its base
READ_BACK = """
import sys, torch
from hf_emktd.training import load_model
from transformers import AutoModel, pipeline
model, processor = load_model(sys.argv[1])
inputs = {name: torch.ones(1, *shape) for name, shape in model.config.input_shapes.items()}
print(*model.eval()(**inputs).logits[0].tolist())
for other in (AutoModel.from_pretrained(sys.argv[1]), pipeline(model.config.task, model=sys.argv[1]).model):
    assert other.config.id2label == model.config.id2label and other.name_or_path == sys.argv[1]
    assert torch.equal(other(**inputs).logits, model(**inputs).logits)
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return make_table(tmp_path_factory.mktemp("table"))


def write_model(model, folder: Path) -> Path:
    model.save_pretrained(folder)
    CavMaeProcessor.from_config(model.config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A large model of other classes."""
    model = make_model(seed=1, **SIZES, id2label={index: f"LABEL_{index}" for index in range(5)})
    return write_model(model, tmp_path_factory.mktemp("lora") / "base")


@pytest.fixture(scope="module")
def adapter(workplace, base, table) -> Path:
    folder = base.with_name("adapter")
    options = ["--init", base, "--lora_rank", "2", "--dataset", table, *THREE_EPOCHS, "--output_dir", folder]
    ended = workplace.run_here("train_teacher.py", *options)
    assert ended.status == 0, ended.err
    return folder


def test_the_teacher_is_saved_as_an_adapter(adapter, base):
    files = {path.name for path in adapter.iterdir()}
    assert files >= ADAPTER and "model.safetensors" not in files
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    model, _ = load_model(str(adapter))
    assert list(model.config.id2label.values()) == LABELS
    summary = DistillationSummary.load(adapter)
    assert summary.student.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert summary.hyper_parameters["lora_rank"] == 2 and summary.adapter_of == str(base)


def test_it_may_be_saved_whole(workplace, adapter, base, table, tmp_path):
    options = ["--init", base, "--lora_rank", "2", "--merge_adapter", "true", "--dataset", table, *THREE_EPOCHS]
    results = workplace.run_here("train_teacher.py", *options, "--output_dir", tmp_path / "whole").results
    whole = AutoModel.from_pretrained(tmp_path / "whole")
    # the same run: what is merged at its end is what is merged when the adapter is loaded
    assert fingerprint(whole) == fingerprint(load_model(str(adapter))[0])
    assert results["results"] == json.loads((adapter / "results.json").read_text())["results"]


def test_the_adapter_teaches(workplace, adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    ended = workplace.run_here("train_monitor.py", "--teacher", folder, *ONE_EPOCH)
    assert ended.status == 0, ended.err
    monitor = EntropyMonitor.from_pretrained(folder / MONITOR_FOLDER)
    assert monitor.config.teacher_fingerprint == fingerprint(load_model(str(folder))[0])
    fields = ["hidden_size=8", "num_attention_heads=1", "patch_size=8"]
    options = ["--student_fields", *fields, "--output_dir", tmp_path / "student", *ONE_EPOCH]
    results = workplace.run_here("distill.py", "--teacher", folder, *options).results
    assert MONITOR_FOLDER not in {path.name for path in (tmp_path / "student").iterdir()}
    student = AutoModel.from_pretrained(tmp_path / "student")
    assert student.config.hidden_size == 8 and list(student.config.id2label.values()) == LABELS
    # merged it does what it did with its adapters beside it
    expected = json.loads((adapter / "results.json").read_text())["results"]["both"]["mAP"]
    assert results["teacher_results"]["both"]["mAP"] == pytest.approx(expected, abs=1e-6)


def test_a_student_is_adapted_and_saved_whole(workplace, adapter, tmp_path):
    torch.manual_seed(0)
    sound = make_audio_config(num_mel_bins=32, frequency_stride=8, time_stride=8)
    config = make_config(audio_config=sound, id2label=dict(enumerate(LABELS)))
    start = write_model(AudioVisualEncoderForAudioVisualClassification(config), tmp_path / "start")
    options = ["--student", start, "--lora_rank", "2", "--lora_target_modules", "q_proj", "--objective", "ktd", "kd"]
    ended = workplace.run_here(
        "distill.py", "--teacher", adapter, *options, *THREE_EPOCHS, "--output_dir", tmp_path / "s"
    )
    assert ended.status == 0, ended.err
    before, after = (AutoModel.from_pretrained(folder).state_dict() for folder in (start, tmp_path / "s"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    encoders = {name for name in changed if "_encoder.layers" in name}
    assert encoders and all(name.endswith("q_proj.weight") for name in encoders)
    for name in encoders:
        singular = torch.linalg.svdvals((after[name] - before[name]).double())
        assert singular[2] < 1e-4 * singular[0], name
    assert any(".fusion." in name for name in changed)


def test_a_published_adapter_is_loaded_with_its_base(workplace, hub, adapter, base, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    for name, value in {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("NO_PROXY", NO_PROXY)
    close_session()
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": "org/base"}))
    for source, name in ((base, "org/base"), (folder, "org/adapter")):
        push_to_hub(source, name, token=WRITE_TOKEN)
    close_session()
    published = {name for name in hub.files("org/adapter") if not name.startswith(".git")}
    assert published >= ADAPTER and not published & {"model.safetensors", "results.json"}

    reader = hub.environment(tmp_path / "home", token=None)
    ended = workplace.run("-c", READ_BACK, "org/adapter", environment=reader)
    assert ended.status == 0, ended.err
    model, _ = load_model(str(adapter))
    inputs = {name: torch.ones(1, *shape) for name, shape in model.config.input_shapes.items()}
    expected = model.eval()(**inputs).logits[0].tolist()
    assert [float(number) for number in ended.out.split()] == pytest.approx(expected, abs=1e-5)


def test_an_adapter_of_a_local_model_is_not_pushed(workplace, base, table, tmp_path):
    options = ["--init", base, "--lora_rank", "2", "--dataset", table, "--push_to_hub", "--use_cpu"]
    ended = workplace.run_here("train_teacher.py", *options, "--output_dir", tmp_path / "adapter")
    assert ended.status == 1 and "lies on this machine alone" in ended.err.splitlines()[-1]


def test_a_student_without_weights_is_not_adapted(workplace, adapter):
    ended = workplace.run_here(
        "distill.py", "--teacher", adapter, "--student", "tiny", "--lora_rank", "2", "--use_cpu"
    )
    assert ended.status == 1 and "name one to start from" in ended.err.splitlines()[-1]
