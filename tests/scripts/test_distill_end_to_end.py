"""From clips to a student that anyone loads: train_teacher, train_monitor, distill, publish, read back."""

from __future__ import annotations

import csv
import json
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from script_runs import INPUTS, ONE_EPOCH, TINY
from transformers import AutoConfig, AutoModel, AutoProcessor

import hf_emktd  # noqa: F401  registers the Auto classes
from hf_emktd.distillation import EntropyMonitor
from hf_emktd.hub import DistillationSummary, predict_clip
from hf_emktd.models.cav_mae import CavMaeForAudioVisualClassification
from hf_emktd.training import MONITOR_FOLDER

REPO = "org/emktd-student"
SAVED = {"config.json", "model.safetensors", "processor_config.json", "README.md", "distillation.json"}
REPORTS = {"results.json", "clips.json", "trainer_state.json"}
SAVED |= REPORTS

# reads a published student in a process that has never seen it, and runs predict.py on it
READ_BACK = """
import runpy, sys
import hf_emktd
from transformers import AutoModel, AutoProcessor
repo, clip, script = sys.argv[1:]
model, processor = AutoModel.from_pretrained(repo).eval(), AutoProcessor.from_pretrained(repo)
logits = model(**processor(clips=clip, return_tensors="pt")).logits
print("logits", *logits[0].tolist())
sys.argv = [script, clip, "--model", repo]
runpy.run_path(script, run_name="__main__")
"""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> Path:
    """A user's own data: a red picture and a high tone, or a blue one and a low tone, as image and audio files."""
    folder = tmp_path_factory.mktemp("table")
    with open(folder / "clips.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["split", "label", "image", "audio"])
        for index, split in enumerate(["train"] * 8 + ["validation"] * 2 + ["test"] * 4):
            colour, hertz = [((200, 30, 30), 1500), ((30, 30, 200), 300)][index % 2]
            Image.new("RGB", (48, 40), tuple(np.add(colour, index))).save(folder / f"{index}.png")
            write_wave(folder / f"{index}.wav", hertz + 10 * index)
            writer.writerow([split, ["red and high", "blue and low"][index % 2], f"{index}.png", f"{index}.wav"])
    return folder / "clips.csv"


def write_wave(path: Path, hertz: float) -> None:
    samples = 8000 * np.sin(2 * np.pi * hertz * np.arange(8000) / 16000)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())


def test_the_student_directory_is_whole(distilled, teacher):
    assert names(distilled) >= SAVED
    assert names(teacher) >= SAVED
    summary = DistillationSummary.load(distilled)
    assert summary.teacher.name == str(teacher)
    assert [objective.settings["name"] for objective in summary.objectives] == ["em_ktd", "kd"]
    assert summary.data.clips == {"train": 40, "validation": 10, "test": 20}
    assert [result.modality for result in summary.results] == ["both", "audio", "visual"]
    assert all(result.retention["mAP"] > 0 for result in summary.results)
    clips = json.loads((distilled / "clips.json").read_text())
    assert clips["found"] == summary.data.clips and clips["manifest_hash"] == summary.data.manifest_hash
    results = json.loads((distilled / "results.json").read_text())
    assert results["results"]["both"]["mAP"] == summary.results[0].metrics["mAP"]


def test_the_card_tells_what_was_done(distilled):
    card = ModelCard.load(distilled / "README.md")
    assert {"knowledge-distillation", "em-ktd", "kd"} <= set(card.data.tags)
    for fact in ("distilled from **teacher**", "retention", "EntropyMonitored", "LogitDistillation", "distill.py"):
        assert fact in card.text


def test_the_student_is_a_quarter_as_wide(distilled, teacher):
    config = AutoConfig.from_pretrained(distilled)
    assert (config.hidden_size, config.num_attention_heads) == (8, 1)
    sizes = [sum(p.numel() for p in AutoModel.from_pretrained(folder).parameters()) for folder in (distilled, teacher)]
    summary = DistillationSummary.load(distilled)
    assert [summary.student.parameters, summary.teacher.parameters] == sizes
    assert 1 / 16 < sizes[0] / sizes[1] < 1 / 8
    assert f"{100 * sizes[0] / sizes[1]:.1f} % of its teacher's parameters" in (distilled / "README.md").read_text()


def test_the_student_loads_as_any_model(distilled, clips):
    model, processor = AutoModel.from_pretrained(distilled), AutoProcessor.from_pretrained(distilled)
    assert type(model) is CavMaeForAudioVisualClassification
    assert model.config.id2label[7] == "digit 7"
    inputs = processor(clips=clips[:2], return_tensors="pt")
    logits = model(**inputs).logits
    assert logits.shape == (2, 10) and logits.isfinite().all()
    with torch.inference_mode():
        assert not torch.equal(model(input_values=inputs["input_values"]).logits, logits)


def test_the_teachers_monitor_is_used_and_left_alone(distilled, teacher):
    assert MONITOR_FOLDER not in names(distilled)
    monitor = EntropyMonitor.from_pretrained(teacher / MONITOR_FOLDER)
    assert DistillationSummary.load(distilled).entropy_statistics == monitor.config.statistics["eval"]
    assert json.loads((distilled / "config.json").read_text())["training_data"]["dataset"] == "touchtone"


def test_the_monitor_is_trained_where_there_is_none(workplace, teacher_without_monitor, tmp_path):
    before = files(teacher_without_monitor)
    options = ["--output_dir", tmp_path / "student", "--objective", "em_ktd", *ONE_EPOCH]
    results = workplace.run_here("distill.py", "--teacher", teacher_without_monitor, *options).results
    assert results["objective"] == ["em_ktd"]
    monitor = EntropyMonitor.from_pretrained(tmp_path / "student" / MONITOR_FOLDER)
    assert monitor.config.branch_widths == {"audio": 32, "visual": 32, "fusion": 32}
    statistics = DistillationSummary.load(tmp_path / "student").entropy_statistics
    assert statistics == monitor.config.statistics["eval"]
    assert files(teacher_without_monitor) == before


def test_labels_only(workplace, teacher_without_monitor, tmp_path):
    options = ["--output_dir", tmp_path / "student", "--objective", "none", *ONE_EPOCH]
    results = workplace.run_here("distill.py", "--teacher", teacher_without_monitor, *options).results
    assert results["objective"] == [] and results["teacher_results"]["both"]["clips"] == 20
    assert names(tmp_path / "student") >= SAVED and MONITOR_FOLDER not in names(tmp_path / "student")
    card = ModelCard.load(tmp_path / "student" / "README.md")
    assert "trained on labels alone" in card.text and "knowledge-distillation" not in card.data.tags


def test_validation_chooses_the_kernel(workplace, teacher, tmp_path):
    options = ["--output_dir", tmp_path / "student", "--objective", "ktd", "kd", "--ktd_kernel", "auto"]
    ended = workplace.run_here("distill.py", "--teacher", teacher, *options, *ONE_EPOCH)
    trials = ended.results["kernel_trials"]
    best = max(trials, key=trials.get)
    assert len(trials) == 8 and f"Best on validation: {best}" in ended.err
    objective = DistillationSummary.load(tmp_path / "student").objectives[0]
    assert objective.settings["weight"] == (100 if "x 10" in best else 10)
    assert objective.settings["kernel"]["name"] == best.split()[0].rstrip(",")
    assert not (tmp_path / "student" / "kernel_trials").exists()


def test_the_student_may_be_chosen(workplace, teacher, tmp_path):
    fields = ["hidden_size=16", "num_attention_heads=2", "image_size=16", "audio_length=32"]
    options = ["--student", "tiny", "--student_fields", *fields, "--output_dir", tmp_path / "student", *ONE_EPOCH]
    assert workplace.run_here("distill.py", "--teacher", teacher, *options).status == 0
    model, processor = (auto.from_pretrained(tmp_path / "student") for auto in (AutoModel, AutoProcessor))
    assert (model.config.hidden_size, model.config.image_size, model.config.audio_length) == (16, 16, 32)
    assert (processor.image_processor.image_size, processor.feature_extractor.audio_length) == (16, 32)


def test_own_clips_from_a_table(workplace, table, tmp_path):
    options = ["--dataset", table, *ONE_EPOCH]
    model = ["--preset", "tiny", "--config_fields", *TINY, *INPUTS, "--mixup_probability", "0"]
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    taught = workplace.run_here("train_teacher.py", *model, *options, "--output_dir", teacher).results
    assert taught["results"]["both"]["clips"] == 4
    # the data are those that the teacher names
    results = workplace.run_here("distill.py", "--teacher", teacher, "--output_dir", student, *ONE_EPOCH).results
    assert results["results"]["both"]["clips"] == 4
    assert AutoConfig.from_pretrained(student).id2label == {0: "blue and low", 1: "red and high"}
    assert DistillationSummary.load(student).data.clips == {"train": 8, "validation": 2, "test": 4}
    report = workplace.run_here("evaluate.py", "--model", student, "--teacher", teacher).results
    assert report["dataset"] == str(table) and report["results"]["audio"]["clips"] == 4


def test_a_teacher_from_another_model_gets_new_classes_and_sizes(workplace, teacher, table, tmp_path):
    options = ["--dataset", table, "--config_fields", "image_size=16", "--num_train_epochs", "0", *ONE_EPOCH[2:]]
    ended = workplace.run_here("train_teacher.py", "--init", teacher, *options, "--output_dir", tmp_path / "new")
    assert ended.status == 0
    old, new = (AutoModel.from_pretrained(folder) for folder in (teacher, tmp_path / "new"))
    assert new.config.label2id == {"blue and low": 0, "red and high": 1} and new.classifier.dense.out_features == 2
    kept = dict(old.named_parameters())
    changed = {name for name, parameter in new.named_parameters() if not torch.equal(parameter, kept[name])}
    assert {name for name in changed if "position" not in name} == {"classifier.dense.weight", "classifier.dense.bias"}
    assert AutoProcessor.from_pretrained(tmp_path / "new").image_processor.image_size == 16


def test_a_teacher_from_another_model_keeps_its_weights(workplace, teacher, table, tmp_path):
    options = ["--dataset", table, "--config_fields", "hidden_size=16", *ONE_EPOCH, "--output_dir", tmp_path / "new"]
    ended = workplace.run_here("train_teacher.py", "--init", teacher, *options)
    assert ended.status == 1 and "Traceback" not in ended.err and not (tmp_path / "new").exists()
    assert "of another shape than these config fields ask for" in ended.err and "without --init" in ended.err


def test_published_and_read_back(workplace, hub, teacher, clips, tmp_path):
    student = tmp_path / "student"
    options = ["--objective", "kd", "--push_to_hub", "--hub_model_id", REPO, "--output_dir", student, *ONE_EPOCH]
    environment = hub.environment(tmp_path / "home")
    ended = workplace.run("distill.py", "--teacher", teacher, *options, environment=environment)
    assert ended.status == 0, ended.err
    published = {name: content for name, content in hub.files(REPO).items() if not name.startswith(".git")}
    assert published.keys() >= SAVED - REPORTS and not REPORTS & published.keys()
    assert not [name for name in published if name.endswith((".bin", ".pt"))]
    assert all((student / name).read_bytes() == content for name, content in published.items())

    reader = hub.environment(tmp_path / "another_home", token=None)
    ended = workplace.run("-c", READ_BACK, REPO, clips[0], "predict.py", environment=reader)
    assert ended.status == 0, ended.err
    model, processor = AutoModel.from_pretrained(student), AutoProcessor.from_pretrained(student)
    first, *table = ended.out.splitlines()
    expected = model(**processor(clips=clips[0], return_tensors="pt")).logits[0].tolist()
    assert [float(number) for number in first.split()[1:]] == pytest.approx(expected, abs=1e-5)
    assert table == predict_clip(model, processor, clips[0]).table().splitlines()


@pytest.mark.parametrize(
    ("options", "status", "reasons"),
    [
        pytest.param([], 2, ["--teacher is needed"], id="no teacher"),
        pytest.param(["--teacher", "nowhere"], 1, ["'nowhere' is no model", "config.json"], id="unknown teacher"),
        pytest.param(
            ["--teacher", "{teacher}", "--dataset", "{table}"],
            1,
            ["the model has 10 classes", "clips.csv has 2", "digit 0", "blue and low"],
            id="other labels",
        ),
        pytest.param(
            ["--teacher", "{teacher}", "--dataset", "{table}.gone.csv"], 1, ["clips.csv.gone.csv"], id="no table"
        ),
        pytest.param(
            ["--teacher", "{teacher}", "--student_fields", "image_size=64"],
            1,
            ["student's grid of 8 x 8 tokens is finer than the teacher's 4 x 4"],
            id="larger inputs",
        ),
        pytest.param(
            ["--teacher", "{teacher}", "--student_fields", "hiden_size=8"],
            1,
            ["hidden_size", "hiden_size"],
            id="field",
        ),
        pytest.param(
            ["--teacher", "{teacher}", "--output_dir", "{teacher}"],
            1,
            ["is the folder of --teacher", "Choose another folder"],
            id="into the teacher",
        ),
        pytest.param(
            ["--teacher", "{teacher}", "--output_dir", "{table}"], 1, ["clips.csv is a file"], id="into a file"
        ),
        pytest.param(["--teacher", "{teacher}", "--split", "tset"], 1, ["no usable clip in split 'tset'"], id="split"),
        pytest.param(["--teacher", "t", "--objective", "magic"], 2, ["unknown magic", "em_ktd"], id="objective"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    workplace, teacher, table, tmp_path, monkeypatch, options, status, reasons
):
    monkeypatch.chdir(tmp_path)
    options = [option.format(teacher=teacher, table=table) for option in options]
    ended = workplace.run_here("distill.py", *options)
    assert ended.status == status and ended.out == "" and "Traceback" not in ended.err
    for reason in reasons:
        assert reason in ended.err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()
