from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_emktd.data import MediaError, read_clip, write_clip
from hf_emktd.hub import ClipSegmentation, segment_clip

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
# how many seconds of each are looked at; None: no answer
ODD_ANSWERS = {
    "avsbench_rotated_90.mp4": 5,
    "bigbuckbunny.mp4": 5,
    "example.mp4": 2,  # no sound stream
    "fixture.mkv": 1,  # one frame
    "fixture-corrupt.mkv": None,
    "iso8859_with_image.m4a": None,  # a header without a packet
    "nasa_13013.mp4": 10,  # of 13
    "no_duration.webm": 4,  # silent; 4.87 s
    "result.webm": None,
    "vggsound_zeros_in_the_middle.mp4": 10,
}


def pictures(seconds: float) -> np.ndarray:
    """Eight frames a second that grow lighter, with a square that moves."""
    count = round(8 * seconds)
    frames = np.empty((count, 40, 56, 3), np.uint8)
    frames[:] = np.linspace(0, 200, count, dtype=np.uint8)[:, None, None, None]
    for index, frame in enumerate(frames):
        frame[8:24, index : index + 16] = (250, 120, 0)
    return frames


def tone(seconds: float, level: float = 0.3) -> np.ndarray:
    times = np.arange(round(16000 * seconds)) / 16000
    # it rises, so that every second sounds otherwise
    return (level * np.sin(2 * np.pi * (300 + 200 * times) * times)).astype(np.float32)


@pytest.fixture
def clip(tmp_path) -> Path:
    write_clip(tmp_path / "clip.mp4", pictures(5), 8, tone(5))
    return tmp_path / "clip.mp4"


@torch.inference_mode()
def expected_probabilities(model, inputs) -> torch.Tensor:
    maps = model(**inputs).logits.sigmoid()
    return torch.nn.functional.interpolate(maps, size=(40, 56), mode="bilinear", align_corners=False)[0]


def test_each_second_is_marked_as_the_model_marks_it(segmenter, segmentation_processor, clip):
    """Five seconds, three of them at once."""
    segmentation = segment_clip(segmenter, segmentation_processor, clip)
    inputs = segmentation_processor(clips=clip, num_frames=5, return_tensors="pt")
    expected = expected_probabilities(segmenter, inputs)
    torch.testing.assert_close(torch.from_numpy(segmentation.probabilities), expected, rtol=0, atol=1e-5)
    assert segmentation.path == clip and segmentation.notes == []
    assert segmentation.times_seconds.tolist() == [0.9375, 1.9375, 2.9375, 3.9375, 4.9375]
    read = read_clip(clip, frame_times_seconds=segmentation.times_seconds.tolist())
    assert np.array_equal(segmentation.frames, read.frames)
    assert np.array_equal(segmentation.waveform, read.waveform) and segmentation.sampling_rate == 16000
    assert segmentation.probabilities.dtype == np.float32


def test_shares_and_masks_follow_from_the_probabilities():
    probabilities = np.array([[[0.2, 0.5], [0.6, 0.9]], [[0.0, 0.1], [0.2, 0.3]]], np.float32)
    frames = np.zeros((2, 2, 2, 3), np.uint8)
    times = np.array([0.9375, 1.9375])
    note = "no sound: silence was given"
    segmentation = ClipSegmentation(Path("a.mp4"), frames, probabilities, times, 2.0, notes=[note])
    assert segmentation.masks.tolist() == [[[False, False], [True, True]], [[False, False], [False, False]]]
    assert segmentation.shares == [0.5, 0.0]
    assert segmentation.line() == "a.mp4 (no sound: silence was given): 50.0  0.0 %"
    assert json.loads(json.dumps(segmentation.to_dict())) == {
        "path": "a.mp4",
        "notes": [note],
        "seconds": [
            {"time_seconds": 0.9375, "mask_share": 0.5, "peak_probability": pytest.approx(0.9)},
            {"time_seconds": 1.9375, "mask_share": 0.0, "peak_probability": pytest.approx(0.3)},
        ],
    }


@pytest.mark.parametrize(("length", "seconds"), [(0.25, 1), (1.75, 1), (1.95, 2), (3, 3)])
def test_a_frame_for_every_second(segmenter, segmentation_processor, tmp_path, length, seconds):
    write_clip(tmp_path / "clip.mp4", np.repeat(pictures(1), 20, axis=0)[: round(20 * length)], 20, tone(length))
    segmentation = segment_clip(segmenter, segmentation_processor, tmp_path / "clip.mp4")
    assert len(segmentation.frames) == len(segmentation.probabilities) == len(segmentation.shares) == seconds
    assert segmentation.duration_seconds == pytest.approx(length, abs=0.1)


def test_a_long_file_is_read_as_far_as_asked(segmenter, segmentation_processor, clip):
    segmentation = segment_clip(segmenter, segmentation_processor, clip, seconds=2)
    whole = segment_clip(segmenter, segmentation_processor, clip)
    assert segmentation.duration_seconds == 2.0 and len(segmentation.waveform) == 32000
    # the first example covers 0.96 s, the second ends before 2 s
    np.testing.assert_allclose(segmentation.probabilities, whole.probabilities[:2], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="seconds must be at least 1, got 0"):
        segment_clip(segmenter, segmentation_processor, clip, seconds=0)


@pytest.mark.parametrize(
    ("waveform", "note"),
    [
        pytest.param(None, "no sound: silence was given", id="soundless"),
        pytest.param(tone(2, level=0), "no sound, the stream is silent: silence was given", id="silent"),
    ],
)
def test_a_clip_without_sound_is_answered_for_silence(segmenter, segmentation_processor, tmp_path, waveform, note):
    write_clip(tmp_path / "clip.mp4", pictures(2), 8, waveform)
    segmentation = segment_clip(segmenter, segmentation_processor, tmp_path / "clip.mp4")
    assert segmentation.notes == [note] and note in segmentation.line()
    inputs = segmentation_processor(images=segmentation.frames, return_tensors="pt")
    inputs["input_values"] = torch.full((1, 2, 96, 64), 0.01).log()
    expected = expected_probabilities(segmenter, inputs)
    torch.testing.assert_close(torch.from_numpy(segmentation.probabilities), expected, rtol=0, atol=1e-5)


def test_a_clip_without_a_picture_is_refused(segmenter, segmentation_processor, tmp_path):
    write_clip(tmp_path / "sound.mp4", None, 10, tone(1))
    with pytest.raises(MediaError, match="has no picture"):
        segment_clip(segmenter, segmentation_processor, tmp_path / "sound.mp4")


def test_half_precision_models_take_their_inputs(segmenter, segmentation_processor, clip):
    half = type(segmenter)(segmenter.config).to(torch.bfloat16).eval()
    half.load_state_dict(segmenter.state_dict())
    expected = segment_clip(segmenter, segmentation_processor, clip).probabilities
    probabilities = segment_clip(half, segmentation_processor, clip).probabilities
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=0.05)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the odd media files")
@pytest.mark.parametrize(("name", "seconds"), ODD_ANSWERS.items())
def test_odd_media(segmenter, segmentation_processor, name, seconds):
    path = SHARED / "odd_media" / name
    if seconds is None:
        with pytest.raises(MediaError, match=name):
            segment_clip(segmenter, segmentation_processor, path)
    else:
        segmentation = segment_clip(segmenter, segmentation_processor, path)
        assert len(segmentation.frames) == seconds
        assert segmentation.probabilities.shape == segmentation.frames.shape[:3]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs real clips")
def test_real_clips(segmenter, segmentation_processor):
    paths = sorted((SHARED / "avsbench" / "clips").glob("*.mp4"))
    segmentations = [segment_clip(segmenter, segmentation_processor, path) for path in paths]
    assert [len(segmentation.frames) for segmentation in segmentations] == [5] * 4
    assert not any(segmentation.notes for segmentation in segmentations)
