"""Tables damaged at random, and files that vanish while real runs read them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from script_runs import ONE_EPOCH, TEACHER, Workplace

from damaged_tables import check_damaged_tables
from vanishing_files import CLASSES, vanishing, write_classes

pytestmark = pytest.mark.torture

TABLES = 20_000
TRAIN, VALIDATION = 12, 4


def test_damaged_tables(tmp_path):
    read, refused = check_damaged_tables(tmp_path, range(TABLES))
    print(f"damaged tables: {TABLES:,} inputs: {read:,} read, {refused:,} refused")
    assert read + refused == TABLES


class TestATenthOfTheFilesVanishes:
    @pytest.fixture(scope="class")
    def workplace(self, tmp_path_factory) -> Workplace:
        return Workplace(tmp_path_factory.mktemp("workplace"))

    @pytest.fixture(scope="class")
    def table(self, tmp_path_factory) -> Path:
        return write_classes(tmp_path_factory.mktemp("clips"), TRAIN, VALIDATION)

    def files(self, table: Path, name: str) -> list[Path]:
        return sorted(table.parent.glob(f"train_{name}*.mp4"))

    def report(self, folder: Path) -> dict:
        return json.loads((folder / "clips.json").read_text())

    def check(self, ended, folder: Path, gone: str) -> None:
        """All clips of the classes `gone` are missing from training, all others in it, and it is said once."""
        assert ended.status == 0, ended.err
        report, rows = self.report(folder), {"train": 10 * TRAIN, "validation": 10 * VALIDATION}
        missing = sorted(f"train_{name}{index}" for name in gone for index in range(TRAIN))
        assert report["counts"] == {"train": {"missing": len(missing)}} and report["rows"] == rows
        assert sorted(problem["clip_id"] for problem in report["problems"]) == missing
        assert report["found"] == rows | {"train": rows["train"] - len(missing)}
        labels = json.loads((folder / "config.json").read_text())["id2label"]
        assert labels == {str(index): name for index, name in enumerate(CLASSES)}
        assert ended.err.count("Manifest ") == 1, ended.err

    def test_from_the_teacher_to_shards(self, workplace, table, tmp_path):
        teacher, student = tmp_path / "teacher", tmp_path / "student"
        data = ["--dataset", table, "--mixup_probability", "0", "--feature_workers", "1"]
        with vanishing(self.files(table, "j"), workplace.cache):
            ended = workplace.run("train_teacher.py", *TEACHER, *data, *ONE_EPOCH, "--output_dir", teacher)
        self.check(ended, teacher, gone="j")
        # once more: now they are missing from the start, and another tenth vanishes
        with vanishing(self.files(table, "i"), workplace.cache):
            ended = workplace.run("distill.py", "--teacher", teacher, *ONE_EPOCH, "--output_dir", student)
        self.check(ended, student, gone="ij")
        strict = workplace.run(
            "distill.py", "--teacher", teacher, *ONE_EPOCH, "--output_dir", tmp_path / "strict", "--strict", "true"
        )
        assert (
            strict.status != 0
            and "clip 'train_i0' is missing: no file" in strict.err
            and "Traceback" not in strict.err
        )
        options = ["--dataset", table, "--processor", teacher, "--output_dir", tmp_path / "shards"]
        ended = workplace.run("prepare_dataset.py", *options)
        assert ended.status == 0 and "train: 96 clips in 1 shards" in ended.out
        assert self.report(tmp_path / "shards")["counts"] == {"train": {"missing": 2 * TRAIN}}
        strict = workplace.run("prepare_dataset.py", *options[:-1], tmp_path / "strict", "--strict", "true")
        assert strict.status != 0 and "clip 'train_i0' is missing: no file" in strict.err
        assert not (tmp_path / "strict").exists()
