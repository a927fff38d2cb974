from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hf_emktd import AvSegFormerProcessor, CavMaeProcessor
from hf_emktd.data import write_clip

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline_media import SECONDS, pictures, tone

from tiny_classifier import make_classifier
from tiny_segmenter import make_segmenter


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> Path:
    """A tiny classifier that was not trained, as anyone saves it."""
    model = make_classifier(spread=20)
    folder = tmp_path_factory.mktemp("models") / "classifier"
    model.save_pretrained(folder)
    CavMaeProcessor.from_config(model.config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def segmenter_dir(tmp_path_factory) -> Path:
    """One of masks; its clips have three frames."""
    model = make_segmenter()
    folder = tmp_path_factory.mktemp("models") / "segmenter"
    model.save_pretrained(folder)
    AvSegFormerProcessor.from_config(model.config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def media(tmp_path_factory) -> dict[str, Path]:
    """Files of all kinds."""
    folder = tmp_path_factory.mktemp("media")
    write_clip(folder / "clip.mp4", pictures(SECONDS), 25, tone(SECONDS))
    write_clip(folder / "other.mp4", pictures(SECONDS)[::-1].copy(), 25, tone(SECONDS)[::-1].copy())
    write_clip(folder / "soundless.mp4", pictures(SECONDS), 25)
    write_clip(folder / "silent.mp4", pictures(SECONDS), 25, tone(SECONDS, level=0))
    write_clip(folder / "pictureless.mp4", None, 25, tone(SECONDS))
    write_clip(folder / "nothing.mp4", None, 25, tone(SECONDS, level=0))
    write_clip(folder / "long.mp4", pictures(30), 25, tone(30))
    (folder / "corrupt.mp4").write_bytes((folder / "clip.mp4").read_bytes()[:700])
    return {path.stem: path for path in folder.iterdir()}
