from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_emktd import CavMaeConfig, CavMaeForAudioVisualClassification, CavMaeProcessor
from hf_emktd.data import MediaError, read_clip, write_clip
from hf_emktd.hub import ClipPrediction, predict_clip
from hf_emktd.hub.prediction import TITLES

ODD_MEDIA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "odd_media"
BOTH, SIGHT, BROKEN = ["both", "audio", "visual"], ["visual"], None
# what each of them allows
ODD_ANSWERS = {
    "avsbench_rotated_90.mp4": BOTH,
    "bigbuckbunny.mp4": BOTH,
    "example.mp4": SIGHT,  # no sound stream
    "fixture.mkv": BOTH,
    "fixture-corrupt.mkv": BROKEN,
    "iso8859_with_image.m4a": BROKEN,  # a header without a packet
    "nasa_13013.mp4": BOTH,
    "no_duration.webm": SIGHT,  # silent
    "result.webm": BROKEN,
    "vggsound_zeros_in_the_middle.mp4": BOTH,
}


def pictures() -> np.ndarray:
    """Ten frames that grow lighter, so that each gives another answer."""
    shades = np.linspace(0, 255, 10, dtype=np.uint8)
    return np.broadcast_to(shades[:, None, None, None], (10, 32, 48, 3)).copy()


def tone(level: float = 0.3) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)).astype(np.float32)


@pytest.fixture
def clip(tmp_path) -> Path:
    write_clip(tmp_path / "clip.mp4", pictures(), 10, tone())
    return tmp_path / "clip.mp4"


@torch.inference_mode()
def probabilities(model, **inputs) -> list[float]:
    return model(**inputs).logits[0].double().softmax(-1).tolist()


def ranked(model, values: list[float]) -> list[tuple[str, float]]:
    order = sorted(range(len(values)), key=lambda index: -values[index])
    return [(model.config.id2label[index], pytest.approx(values[index], abs=1e-6)) for index in order]


def test_each_modality_is_answered_as_the_model_answers_it(model, processor, clip):
    inputs = dict(processor(clips=clip, return_tensors="pt"))
    prediction = predict_clip(model, processor, clip)
    assert prediction.path == clip and prediction.notes == []
    assert prediction.top == {
        "both": ranked(model, probabilities(model, **inputs)),
        "audio": ranked(model, probabilities(model, input_values=inputs["input_values"])),
        "visual": ranked(model, probabilities(model, pixel_values=inputs["pixel_values"])),
    }
    assert prediction.best is prediction.top["both"]


@pytest.mark.parametrize(
    ("modality", "name", "reason"),
    [
        ("audio", "input_values", "no sound, and the model only"),
        ("visual", "pixel_values", "no picture, and the model"),
    ],
)
def test_a_model_of_one_modality_answers_once(model, clip, tmp_path, modality, name, reason):
    config = CavMaeConfig(**model.config.to_dict() | {"modalities": [modality]})
    one, processor = CavMaeForAudioVisualClassification(config).eval(), CavMaeProcessor.from_config(config)
    prediction = predict_clip(one, processor, clip)
    expected = probabilities(one, **processor(clips=clip, return_tensors="pt"))
    assert prediction.top == {modality: ranked(one, expected)} and prediction.notes == []
    assert TITLES[modality] in prediction.table()
    sound, frames = (None, pictures()) if modality == "audio" else (tone(), None)
    write_clip(tmp_path / "lacking.mp4", frames, 10, sound)
    with pytest.raises(MediaError, match=reason):
        predict_clip(one, processor, tmp_path / "lacking.mp4")


def test_ten_frames_average_their_softmax(model, processor, clip):
    inputs = processor(clips=clip, num_frames=10, return_tensors="pt")
    sound, frames = inputs["input_values"], inputs["pixel_values"][0]
    singly = [probabilities(model, input_values=sound, pixel_values=frame[None]) for frame in frames]
    prediction = predict_clip(model, processor, clip, frames=10)
    assert prediction.top["both"] == ranked(model, np.mean(singly, axis=0).tolist())
    assert np.ptp([values[0] for values in singly]) > 1e-3
    assert prediction.top["audio"] == predict_clip(model, processor, clip).top["audio"]


@pytest.mark.parametrize(
    ("frames", "waveform", "modality", "note"),
    [
        pytest.param(pictures(), None, "visual", "no sound: answered from the picture", id="soundless"),
        pytest.param(
            pictures(), tone(0), "visual", "no sound, the stream is silent: answered from the picture", id="silent"
        ),
        pytest.param(None, tone(), "audio", "no picture: answered from the sound", id="pictureless"),
    ],
)
def test_a_clip_without_one_sense_is_answered_from_the_other(
    model, processor, tmp_path, frames, waveform, modality, note
):
    write_clip(tmp_path / "clip.mp4", frames, 10, waveform)
    prediction = predict_clip(model, processor, tmp_path / "clip.mp4")
    read = read_clip(tmp_path / "clip.mp4")
    one_sense = (
        processor(images=read.frames[5], return_tensors="pt")
        if modality == "visual"
        else processor(audio=read.waveform, sampling_rate=16000, return_tensors="pt")
    )
    assert prediction.top == {modality: ranked(model, probabilities(model, **one_sense))}
    assert prediction.notes == [note]
    assert note in prediction.table().splitlines()[0]


def test_a_clip_that_says_nothing_is_refused(model, processor, tmp_path):
    write_clip(tmp_path / "silent.mp4", None, 10, tone(0))
    with pytest.raises(MediaError, match="neither sound nor picture"):
        predict_clip(model, processor, tmp_path / "silent.mp4")


def test_no_more_labels_than_asked_for_or_known(model, processor, clip):
    full = predict_clip(model, processor, clip, top_k=99).top["both"]
    assert sum(probability for _, probability in full) == pytest.approx(1)
    assert predict_clip(model, processor, clip, top_k=2).top["both"] == full[:2]


@pytest.mark.parametrize("option", ["frames", "top_k"])
def test_numbers_below_one_are_refused(model, processor, clip, option):
    with pytest.raises(ValueError, match=f"{option} must be at least 1, got 0"):
        predict_clip(model, processor, clip, **{option: 0})


def test_half_precision_models_take_their_inputs(model, processor, clip):
    half = type(model)(model.config).to(torch.bfloat16).eval()
    half.load_state_dict(model.state_dict())
    expected = dict(predict_clip(model, processor, clip).best)
    assert dict(predict_clip(half, processor, clip).best) == pytest.approx(expected, abs=0.02)


def test_the_table_is_aligned_and_fits():
    top = {
        "both": [("a label that is far too long for its column", 0.75), ("dog", 0.25)],
        "audio": [("dog", 1.0), ("bell", 0.0)],
        "visual": [("exactly twenty-four char", 0.5), ("bell", 0.5)],
    }
    assert ClipPrediction(Path("clips/a.mp4"), top).table(width=100).splitlines() == [
        "clips/a.mp4",
        "  sound and picture                sound only                       picture only",
        "  a label that is far too… 0.750   dog                      1.000   exactly twenty-four char 0.500",
        "  dog                      0.250   bell                     0.000   bell                     0.500",
    ]


def test_a_prediction_as_json():
    prediction = ClipPrediction(Path("a.mp4"), {"visual": [("dog", 0.75)]}, ["no sound: answered from the picture"])
    assert json.loads(json.dumps(prediction.to_dict())) == {
        "path": "a.mp4",
        "notes": ["no sound: answered from the picture"],
        "top": {"visual": [{"label": "dog", "probability": 0.75}]},
    }


@pytest.mark.skipif(not ODD_MEDIA.is_dir(), reason="needs the odd media files")
@pytest.mark.parametrize(("name", "modalities"), ODD_ANSWERS.items())
def test_odd_media(model, processor, name, modalities):
    if modalities is BROKEN:
        with pytest.raises(MediaError, match=name):
            predict_clip(model, processor, ODD_MEDIA / name)
    else:
        assert list(predict_clip(model, processor, ODD_MEDIA / name).top) == modalities
