from __future__ import annotations

import numpy as np
import pytest
import torch
from pipeline_media import RATE, pictures, tone
from transformers import AutoModel, AutoProcessor, pipeline

from hf_emktd.data import MediaError, read_clip, write_clip
from hf_emktd.hub import segment_clip
from hf_emktd.pipelines import AudioVisualSegmentationPipeline

TASK = "audio-visual-segmentation"


@pytest.fixture(scope="module")
def segmenter(segmenter_dir) -> AudioVisualSegmentationPipeline:
    return pipeline(TASK, model=str(segmenter_dir), device="cpu")


@pytest.fixture(scope="module")
def loaded(segmenter_dir) -> tuple:
    return AutoModel.from_pretrained(segmenter_dir), AutoProcessor.from_pretrained(segmenter_dir)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("media")
    write_clip(folder / "clip.mp4", pictures(3, rate=8), 8, tone(3))
    write_clip(folder / "long.mp4", pictures(8, rate=8), 8, tone(8))
    write_clip(folder / "soundless.mp4", pictures(3, rate=8), 8)
    write_clip(folder / "silent.mp4", pictures(3, rate=8), 8, tone(3, level=0))
    write_clip(folder / "sound.mp4", None, 8, tone(3))
    (folder / "corrupt.mp4").write_bytes((folder / "clip.mp4").read_bytes()[:700])
    return {path.stem: path for path in folder.iterdir()}


def shares(answer: dict) -> list[float]:
    return [frame["mask_share"] for frame in answer["frames"]]


def test_masks_are_those_of_segment_clip(segmenter, loaded, clips):
    expected = segment_clip(*loaded, clips["clip"])
    answer = segmenter(clips["clip"])
    assert [frame["time"] for frame in answer["frames"]] == expected.times_seconds.tolist()
    for frame, mask, probabilities in zip(answer["frames"], expected.masks, expected.probabilities, strict=True):
        assert frame["mask"].mode == "L" and frame["mask"].size == (48, 32)
        unclear = np.abs(probabilities - 0.5) < 1e-5
        assert np.array_equal(np.asarray(frame["mask"])[~unclear] == 255, mask[~unclear])
        assert frame["peak_probability"] == pytest.approx(probabilities.max(), abs=1e-5)
    assert shares(answer) == pytest.approx(expected.shares, abs=1e-3)
    assert answer["notes"] == [] and len(answer["timeline"]) == 1


def test_a_long_file_is_answered_in_windows(segmenter, loaded, clips):
    """Eight seconds, three at a time; each window's sound begins with it."""
    answer = segmenter(clips["long"])
    assert [frame["time"] for frame in answer["frames"]] == [second + 15 / 16 for second in range(8)]
    windows = [(window["start"], window["end"]) for window in answer["timeline"]]
    assert windows[:2] == [(0, 3), (3, 6)] and windows[2] == pytest.approx((6, 8), abs=0.1)
    model, processor = loaded
    clip = read_clip(clips["long"], frame_times_seconds=[3.9375, 4.9375, 5.9375])
    sound = clip.waveform[3 * RATE : 6 * RATE]
    inputs = processor(audio=sound, images=clip.frames, sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        probabilities = model(**inputs).logits.sigmoid()
    expected = torch.nn.functional.interpolate(probabilities, size=(32, 48), mode="bilinear")[0]
    peaks = [frame["peak_probability"] for frame in answer["frames"][3:6]]
    assert peaks == pytest.approx(expected.amax((1, 2)).tolist(), abs=1e-5)
    assert answer["timeline"][1]["mask_share"] == pytest.approx((expected > 0.5).float().mean().item(), abs=1e-3)
    assert len(segmenter(clips["long"], max_seconds=4)["frames"]) == 4


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_answers_do_not_depend_on_the_batch(segmenter, clips, batch_size):
    paths = [clips[name] for name in ("long", "corrupt", "soundless", "clip")]
    answers = segmenter(paths, batch_size=batch_size, on_error="report")
    assert answers[1]["path"] == str(clips["corrupt"]) and answers[1]["error"]
    for index in (0, 2, 3):
        assert shares(answers[index]) == pytest.approx(shares(segmenter(paths[index])), abs=1e-3)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("soundless", "no sound: silence was given"),
        ("silent", "no sound, the stream is silent: silence was given"),
    ],
)
def test_a_clip_without_sound_is_answered_for_silence(segmenter, loaded, clips, name, note):
    answer = segmenter(clips[name])
    assert answer["notes"] == [note]
    assert shares(answer) == pytest.approx(segment_clip(*loaded, clips[name]).shares, abs=1e-3)


def test_a_picture_with_a_sound(segmenter):
    answer = segmenter({"image": pictures(1)[12], "audio": tone(2), "sampling_rate": RATE})
    assert len(answer["frames"]) == 2 and answer["frames"][0]["mask"].size == (48, 32)
    assert len(segmenter({"image": pictures(1)[12]})["frames"]) == 1


def test_masks_may_be_left_out_and_have_a_threshold(segmenter, clips):
    frames = segmenter(clips["clip"], return_masks=False, threshold=0)["frames"]
    assert all("mask" not in frame and frame["mask_share"] == 1 for frame in frames)
    with pytest.raises(ValueError, match="threshold must be at least 0"):
        segmenter(clips["clip"], threshold=1)


@pytest.mark.parametrize(("name", "reason"), [("sound", "has no picture"), ("corrupt", r"corrupt\.mp4")])
def test_files_without_a_picture_are_refused(segmenter, clips, name, reason):
    with pytest.raises(MediaError, match=reason):
        segmenter(clips[name])


def test_another_task_is_refused(model_dir):
    with pytest.raises(ValueError, match=r"pipeline\('audio-visual-classification'"):
        pipeline(TASK, model=str(model_dir), device="cpu")
