from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hf_emktd import AvSegFormerProcessor, CavMaeProcessor
from hf_emktd.data import write_clip
from hf_emktd.demo import Respondent
from hf_emktd.distillation import EntropyMonitor, EntropyMonitorConfig

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))

from pipeline_media import SECONDS, pictures, tone

from tiny_classifier import make_classifier
from tiny_segmenter import make_segmenter

HOSTILE = "<img src=x onerror=\"document.title='caught'\">"
LABELS = {0: HOSTILE, 1: "${1+1} {{ 7 * 7 }}", 2: "rain"}


def save_classifier(folder: Path, width: int) -> Path:
    """A tiny one that was not trained, with labels that a page might take for its own."""
    model = make_classifier(spread=20, seed=width, hidden_size=width, id2label=LABELS)
    model.save_pretrained(folder)
    CavMaeProcessor.from_config(model.config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def student(tmp_path_factory) -> Respondent:
    return Respondent(str(save_classifier(tmp_path_factory.mktemp("models") / "small<b>", 16)), "student")


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> Respondent:
    """With an entropy monitor of its own."""
    folder = save_classifier(tmp_path_factory.mktemp("models") / "large", 32)
    widths = dict.fromkeys(("audio", "visual", "fusion"), 32)
    EntropyMonitor(EntropyMonitorConfig(branch_widths=widths, id2label=LABELS)).save_pretrained(
        folder / "entropy_monitor"
    )
    return Respondent(str(folder), "teacher")


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory) -> Respondent:
    model = make_segmenter()
    folder = tmp_path_factory.mktemp("models") / "segmenter"
    model.save_pretrained(folder)
    AvSegFormerProcessor.from_config(model.config).save_pretrained(folder)
    return Respondent(str(folder))


@pytest.fixture(scope="session")
def media(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("media")
    write_clip(folder / "clip.mp4", pictures(SECONDS), 25, tone(SECONDS))
    write_clip(folder / "scene.mp4", pictures(2, rate=8), 8, tone(2))
    write_clip(folder / "soundless.mp4", pictures(SECONDS), 25)
    write_clip(folder / "silent.mp4", pictures(SECONDS), 25, tone(SECONDS, level=0))
    write_clip(folder / "pictureless.mp4", None, 25, tone(SECONDS))
    (folder / "corrupt.mp4").write_bytes((folder / "clip.mp4").read_bytes()[:700])
    return {path.stem: path for path in folder.iterdir()}
