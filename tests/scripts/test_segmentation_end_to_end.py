"""From scenes to a student that draws masks: the same scripts as for events, told by data set and model alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from script_runs import ONE_EPOCH
from transformers import AutoConfig, AutoModel, AutoProcessor

import hf_emktd  # noqa: F401  registers the Auto classes
from hf_emktd.hub import DistillationSummary
from hf_emktd.training import MONITOR_FOLDER

SCENES = json.dumps({"num_train": 12, "num_validation": 4, "num_test": 6})
SIZES = ["vision_hidden_sizes=[8,16,32,32]", "vision_depths=[1,1,1,1]", "vision_num_attention_heads=[1,1,2,2]"]
SIZES += ["audio_channels=[2,2,4,4,8,8]", "audio_hidden_size=16", "audio_embedding_size=16", "hidden_size=16"]
SIZES += ["num_attention_heads=2", "encoder_layers=1", "decoder_layers=1", "query_layers=1", "num_queries=4"]
SIZES += ["feed_forward_size=16", "query_feed_forward_size=16", "mask_mlp_size=16", "norm_groups=4", "image_size=64"]
BATCHES = ["--per_device_train_batch_size", "6"]


@pytest.fixture(scope="module")
def avs_teacher(workplace, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("avs") / "teacher"
    data = ["--dataset", "touchtone_scenes", "--dataset_options", SCENES, "--silence_probability", "0.2"]
    ended = workplace.run_here(
        "train_teacher.py", "--config_fields", *SIZES, *data, *ONE_EPOCH, *BATCHES, "--output_dir", folder
    )
    assert ended.status == 0, ended.err
    assert {"MJ", "MF"} <= ended.results["results"]["both"].keys()
    ended = workplace.run_here("train_monitor.py", "--teacher", folder, *ONE_EPOCH)
    assert ended.status == 0, ended.err
    assert ended.results["statistics"]["eval"].keys() == {"audio", "visual", "fusion"}
    return folder


@pytest.fixture(scope="module")
def avs_student(workplace, avs_teacher) -> Path:
    folder = avs_teacher.parent / "student"
    ended = workplace.run_here("distill.py", "--teacher", avs_teacher, *ONE_EPOCH, *BATCHES, "--output_dir", folder)
    assert ended.status == 0, ended.err
    return folder


def test_student_and_card(avs_teacher, avs_student):
    teacher, student = AutoModel.from_pretrained(avs_teacher), AutoModel.from_pretrained(avs_student)
    assert list(student.config.vision_hidden_sizes) == [4, 8, 16, 16]
    assert student.config.training_augmentation["silence_probability"] == 0.2
    own, given = student.avsegformer.audio_encoder.state_dict(), teacher.avsegformer.audio_encoder.state_dict()
    for name, tensor in given.items():
        torch.testing.assert_close(own[name], tensor)
    summary = DistillationSummary.load(avs_student)
    assert summary.task == "audio-visual-segmentation"
    assert [result.modality for result in summary.results] == ["both", "swapped_sound", "silence"]
    assert summary.hyper_parameters["freeze"] == ["audio_encoder"]
    assert summary.student.visual_parameters < summary.teacher.visual_parameters
    card = (avs_student / "README.md").read_text()
    assert "MJ" in card and "audio-visual-segmentation" in card and "accuracy" not in card.lower().split("## ")[0]
    assert not (avs_student / MONITOR_FOLDER).exists()


def test_validation_chooses_the_kernel(workplace, avs_teacher, tmp_path):
    options = ["--objective", "ktd", "--ktd_kernel", "auto", *ONE_EPOCH, *BATCHES, "--max_steps", "1"]
    ended = workplace.run_here("distill.py", "--teacher", avs_teacher, *options, "--output_dir", tmp_path / "student")
    assert ended.status == 0, ended.err
    trials = ended.results["kernel_trials"]
    assert len(trials) == 8 and all(0 <= score <= 1 for scores in trials.values() for score in scores)
    objective = DistillationSummary.load(tmp_path / "student").objectives[0]
    assert objective.settings["weight"] in (1, 10)


def test_evaluate(workplace, avs_teacher, avs_student):
    ended = workplace.run_here("evaluate.py", "--model", avs_student, "--teacher", avs_teacher)
    results = ended.results
    assert results["dataset"] == "touchtone_scenes" and results["results"].keys() == results["teacher_results"].keys()
    assert results["results"]["silence"]["mask_share"] <= 1


def test_suggest_student(workplace, avs_teacher, tmp_path):
    quick = ["--candidates", "2", "--repetitions", "1", "--score_batch_size", "4", "--initialisations", "2"]
    ended = workplace.run_here(
        "suggest_student.py", "--teacher", avs_teacher, "--max_params", "20k", *quick, "--output_dir", tmp_path
    )
    assert ended.status == 0, ended.err
    first, second = json.loads((tmp_path / "suggestions.json").read_text())["suggestions"]
    assert first["score"]["total"] >= second["score"]["total"] and first["score"]["classes"] is None
    assert AutoModel.from_config(AutoConfig.from_pretrained(tmp_path / "student")).num_parameters() <= 20_000


def test_predict(workplace, avs_student, tmp_path):
    clips = sorted(workplace.cache.glob("touchtone_scenes/*/**/audio_wav/**/*.wav"))
    assert clips
    video = tmp_path / "scene.mp4"
    write_scene(video)
    ended = workplace.run_here("predict.py", video, "--model", avs_student, "--output_dir", tmp_path / "out")
    assert ended.status == 0, ended.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"scene_overlay.mp4", "scene_frames.png"}


def write_scene(path: Path) -> None:
    import numpy as np

    from hf_emktd.data import write_clip

    random = np.random.default_rng(0)
    frames = random.integers(0, 255, (20, 48, 64, 3), dtype=np.uint8)
    write_clip(path, frames, 10, random.normal(0, 0.1, 32000).astype(np.float32), 16000)


def test_a_slim_student_from_a_smaller_picture(workplace, avs_teacher, tmp_path):
    fields = ["image_size=32", "audio_hidden_size=8", "mask_loss=bce"]
    options = ["--objective", "ktd", "--max_train_clips", "6", "--controls", "none"]
    ended = workplace.run_here(
        "distill.py",
        "--teacher",
        avs_teacher,
        "--student_fields",
        *fields,
        *options,
        *ONE_EPOCH,
        "--output_dir",
        tmp_path,
    )
    assert ended.status == 0, ended.err
    assert DistillationSummary.load(tmp_path).hyper_parameters["freeze"] == []
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert processor.image_processor.image_size == 32


@pytest.mark.parametrize(
    "options, message",
    [
        (["--preset", "tiny"], "--preset tiny is no size of a model for touchtone_scenes"),
        (["--preset", "huge"], "preset must be one of"),
        (["--preset", "b0", "--init", "nowhere"], "Leave one of them out"),
        (["--init", "nowhere"], "there is no folder 'nowhere', and models on the Hub have names such as 'org/model'"),
        (["--preset", "b0", "--freeze", "ears"], "has no part ears"),
    ],
)
def test_refusals(workplace, options, message, tmp_path):
    data = ["--dataset", "touchtone_scenes", "--dataset_options", SCENES]
    ended = workplace.run_here("train_teacher.py", *options, *data, *ONE_EPOCH, "--output_dir", tmp_path)
    assert ended.status != 0 and message in ended.err


@pytest.mark.parametrize(
    "options, message",
    [
        (["--inherit", "ears"], "has no part ears"),
        (["--student", "avs/teacher", "--inherit", "audio_encoder"], "are for students without weights"),
    ],
)
def test_what_cannot_be_inherited(workplace, avs_teacher, options, message, tmp_path):
    ended = workplace.run_here(
        "distill.py", "--teacher", avs_teacher, *options, *ONE_EPOCH, "--output_dir", tmp_path / "student"
    )
    assert ended.status != 0 and message in ended.err
    assert not (tmp_path / "student").exists()


def test_models_and_data_of_two_tasks(workplace, avs_student):
    ended = workplace.run_here("evaluate.py", "--model", avs_student, "--dataset", "touchtone")
    assert ended.status == 1 and "touchtone is a data set for audio-visual-classification" in ended.err


def test_the_page_of_a_run_shows_masks(workplace, avs_student, tmp_path):
    output = tmp_path / "page.html"
    ended = workplace.run_here("report.py", "--run", avs_student, "--max_clips", "4", "--output", output)
    assert ended.status == 0, ended.err
    page = output.read_text()
    assert page.count('alt="Frames with the masks of the ground truth"') == 4 and page.count("MJ of the student") == 4
    # two steps are fewer than --logging_steps
    assert page.count("Left out: ") == 1 and "nothing was logged" in page and "Classes gained" not in page
