"""A teacher is trained on what is left when files vanish while they are read, and not at all with --strict."""

from __future__ import annotations

import json

from script_runs import ONE_EPOCH, TEACHER

from vanishing_files import CLASSES, vanishing, write_classes


def test_training_goes_on_with_the_rest(workplace, tmp_path):
    table = write_classes(tmp_path, train=2, validation=1)
    data = ["--dataset", table, "--mixup_probability", "0", "--feature_workers", "1"]
    options = [*TEACHER, *data, *ONE_EPOCH, "--output_dir", tmp_path / "teacher"]
    gone = [tmp_path / "train_j0.mp4", tmp_path / "train_j1.mp4"]
    with vanishing(gone, workplace.cache):
        ended = workplace.run_here("train_teacher.py", *options)
    assert ended.status == 0, ended.err
    report = json.loads((tmp_path / "teacher" / "clips.json").read_text())
    assert [problem["clip_id"] for problem in report["problems"]] == ["train_j0", "train_j1"]
    assert report["counts"] == {"train": {"missing": 2}} and report["rows"]["train"] == 20
    config = json.loads((tmp_path / "teacher" / "config.json").read_text())
    assert list(config["id2label"].values()) == list(CLASSES)

    ended = workplace.run_here("train_teacher.py", *options, "--strict", "true")
    assert ended.status == 1 and "clip 'train_j0' is missing: no file" in ended.err
