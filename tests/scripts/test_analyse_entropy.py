from __future__ import annotations

import csv
import json
import shutil

import pytest
from script_runs import ONE_EPOCH, SHARED
from test_segmentation_end_to_end import BATCHES, SCENES, SIZES

from hf_emktd.data import load_clips
from hf_emktd.distillation import EntropyMonitor, EntropyMonitorConfig
from hf_emktd.models.cav_mae import CavMaeConfig, CavMaeForAudioVisualClassification, CavMaeProcessor
from hf_emktd.training import MONITOR_FOLDER

PICTURES = {"histogram.png", "bins.png", "sweeps.png"}
TABLES = {"entropy_analysis.json", "entropy_analysis.md"}


def names(folder):
    return {path.name for path in folder.iterdir()}


def found_in(folder):
    return json.loads((folder / "entropy_analysis.json").read_text())


def test_of_events_with_tags(workplace, teacher, tmp_path):
    tags = tmp_path / "tags.csv"
    with open(tags, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video_id", "label", "modality"])
        for index in range(20):  # after 50 clips of other splits
            writer.writerow([f"touch{50 + index:06d}_000000", f"digit {index % 10}", ("A", "V", "AV")[index % 3]])
    options = ["--tags", tags, "--sweep_clips", "8", "--bins", "4", "--output_dir", tmp_path / "out"]
    ended = workplace.run_here("analyse_entropy.py", "--teacher", teacher, *options)
    assert ended.status == 0, ended.err
    assert names(tmp_path / "out") == PICTURES | TABLES | {"tags.png"}
    found = found_in(tmp_path / "out")
    assert (found["clips"], found["sweep_clips"], found["score"]) == (20, 8, "accuracy")
    assert [one["clips"] for one in found["bins"]["fusion"]] == [5, 5, 5, 5]
    assert [one["clips"] for one in found["tags"]] == [7, 7, 6]
    heard = {level["weights"]["audio"] for level in found["covers"]}
    seen = {level["weights"]["visual"] for level in found["noises"]}
    assert len(heard) == len(seen) == 1 and len({level["weights"]["audio"] for level in found["noises"]}) > 1
    assert "## What can be heard and seen" in ended.out


def test_of_masks(workplace, tmp_path):
    teacher, data = tmp_path / "teacher", ["--dataset", "touchtone_scenes", "--dataset_options", SCENES]
    ended = workplace.run_here(
        "train_teacher.py", "--config_fields", *SIZES, *data, *ONE_EPOCH, *BATCHES, "--output_dir", teacher
    )
    assert ended.status == 0, ended.err
    assert workplace.run_here("train_monitor.py", "--teacher", teacher, "--min_steps", "4", *ONE_EPOCH).status == 0
    options = ["--sweep_clips", "3", "--bins", "2", "--output_dir", tmp_path / "out"]
    ended = workplace.run_here("analyse_entropy.py", "--teacher", teacher, *options)
    assert ended.status == 0, ended.err
    found = found_in(tmp_path / "out")
    assert names(tmp_path / "out") == PICTURES | TABLES
    assert found["score"] == "MJ" and found["largest_entropy"] == pytest.approx(0.693147)
    assert [len(found[name]) for name in ("covers", "noises")] == [7, 8]


@pytest.mark.skipif(not (SHARED / "vggsound" / "clips").is_dir(), reason="the folder of shared data is absent")
def test_real_clips_and_the_tags_of_vggsounder(workplace, tmp_path):
    """An untrained model of VGGSound's classes: what is checked is that clips, labels and tags find each other."""
    folder = SHARED / "vggsound"
    labels = dict(enumerate(load_clips("vggsound", folder).label_names))
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "modality_specific_depth": 1, "image_size": 32}
    model = CavMaeForAudioVisualClassification(
        CavMaeConfig(**sizes, audio_length=64, num_mel_bins=64, id2label=labels)
    )
    model.save_pretrained(tmp_path / "teacher")
    CavMaeProcessor.from_config(model.config).save_pretrained(tmp_path / "teacher")
    config = EntropyMonitorConfig(branch_widths=dict(model.config.branch_widths), id2label=labels)
    EntropyMonitor(config).save_pretrained(tmp_path / "teacher" / MONITOR_FOLDER)
    data = ["--dataset", "vggsound", "--data_dir", folder, "--tags", folder / "vggsounder.csv"]
    options = ["--bins", "2", "--sweep_clips", "1", "--output_dir", tmp_path / "out"]
    ended = workplace.run_here("analyse_entropy.py", "--teacher", tmp_path / "teacher", *data, *options)
    assert ended.status == 0, ended.err
    found = found_in(tmp_path / "out")
    assert found["clips"] == 5 and 1 <= sum(one["clips"] for one in found["tags"]) <= 5


def test_refusals(workplace, teacher, teacher_without_monitor, tmp_path):
    refused = [
        ([], 2, "--teacher is needed"),
        (["--teacher", teacher, "--bins", "0"], 2, "bins must be at least 1"),
        (["--teacher", teacher_without_monitor], 1, "has no folder entropy_monitor/; train a monitor with scripts/"),
        (["--teacher", teacher, "--bins", "21"], 1, "20 clips do not fill 21 bins"),
        (["--teacher", teacher, "--tags", tmp_path / "absent.csv"], 1, "absent.csv"),
    ]
    for options, status, reason in refused:
        ended = workplace.run_here("analyse_entropy.py", *options, "--output_dir", tmp_path / "out")
        assert ended.status == status and reason in ended.err.splitlines()[-1], ended.err
        assert "Traceback" not in ended.err
    shutil.copytree(teacher, tmp_path / "other")
    config = json.loads((tmp_path / "other" / MONITOR_FOLDER / "config.json").read_text())
    config["teacher_fingerprint"] = "0" * 16
    (tmp_path / "other" / MONITOR_FOLDER / "config.json").write_text(json.dumps(config))
    ended = workplace.run_here("analyse_entropy.py", "--teacher", tmp_path / "other")
    assert ended.status == 1 and "the monitor was trained on teacher" in ended.err


def test_a_teacher_that_only_sees_is_refused(workplace, tmp_path):
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "modality_specific_depth": 1, "image_size": 32}
    model = CavMaeForAudioVisualClassification(CavMaeConfig(**sizes, modalities=["visual"], id2label={0: "a", 1: "b"}))
    model.save_pretrained(tmp_path)
    CavMaeProcessor.from_config(model.config).save_pretrained(tmp_path)
    config = EntropyMonitorConfig(branch_widths=dict(model.config.branch_widths), id2label=model.config.id2label)
    EntropyMonitor(config).save_pretrained(tmp_path / MONITOR_FOLDER)
    ended = workplace.run_here("analyse_entropy.py", "--teacher", tmp_path)
    assert ended.status == 1 and "takes no input_values: what is compared are a teacher's two senses" in ended.err
