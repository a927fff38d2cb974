from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from script_runs import ACCELERATE, ONE_EPOCH, TEACHER, TOUCHTONE, Workplace

from hf_emktd.training import MONITOR_FOLDER
from hub_server import HubServer


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture(scope="session")
def teacher(workplace, tmp_path_factory) -> Path:
    """A teacher of touchtone with its monitor."""
    folder = tmp_path_factory.mktemp("models") / "teacher"
    data = ["--dataset", "touchtone", "--dataset_options", TOUCHTONE, "--mixup_probability", "0"]
    ended = workplace.run("train_teacher.py", *TEACHER, *data, *ONE_EPOCH, "--output_dir", folder)
    assert ended.status == 0, ended.err
    ended = workplace.run_here("train_monitor.py", "--teacher", folder, *ONE_EPOCH)
    assert ended.status == 0, ended.err
    return folder


@pytest.fixture(scope="session")
def teacher_without_monitor(teacher, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "teacher"
    return shutil.copytree(teacher, folder, ignore=shutil.ignore_patterns(MONITOR_FOLDER))


@pytest.fixture(scope="session")
def distilled(workplace, teacher) -> Path:
    """The student that `accelerate launch scripts/distill.py --teacher DIR` makes; treat as read-only."""
    folder = teacher.parent / "student"
    ended = workplace.run(*ACCELERATE, "distill.py", "--teacher", teacher, "--output_dir", folder, *ONE_EPOCH)
    assert ended.status == 0, ended.err
    return folder


@pytest.fixture
def student(distilled, tmp_path) -> Path:
    """A copy of the student that a test may change."""
    return shutil.copytree(distilled, tmp_path / "student")


@pytest.fixture(scope="session")
def clips(workplace, teacher) -> list[Path]:
    """Touchtone clips, in the order of their names: train, validation, test."""
    return sorted(workplace.cache.glob("touchtone/*/clips/*.mp4"))


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server
