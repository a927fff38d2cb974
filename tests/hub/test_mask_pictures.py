from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_emktd.data import Clip, MediaError, read_clip, write_clip
from hf_emktd.hub import ClipSegmentation, draw_comparison, write_overlay, write_strip
from hf_emktd.hub.mask_pictures import draw_mask

COLOUR = [255, 0, 128]


def square(size: tuple[int, int] = (40, 56), rows: slice = slice(8, 32)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[rows, 16:40] = True
    return mask


def segmentation_of(path: Path, masks: list[np.ndarray], duration: float, **sound) -> ClipSegmentation:
    frames = np.full((len(masks), *masks[0].shape, 3), 60, np.uint8)
    times = np.arange(len(masks)) + 0.9375
    return ClipSegmentation(path, frames, np.stack(masks).astype(np.float32), times, duration, **sound)


def is_marked(frames: np.ndarray) -> np.ndarray:
    """Which frames are tinted in the middle of the square."""
    return frames[:, 18:22, 26:30, 0].mean(axis=(1, 2)) > 100


def test_a_mask_is_tinted_and_outlined():
    frame = np.full((40, 56, 3), 100, np.uint8)
    drawn = draw_mask(frame, square())
    assert drawn[20, 28].tolist() == [170, 55, 113]  # 0.55 * 100 + 0.45 * colour
    assert drawn[8, 20].tolist() == drawn[31, 39].tolist() == COLOUR
    assert (drawn[~square()] == 100).all() and (frame == 100).all()
    assert np.array_equal(draw_mask(frame, np.zeros((40, 56), bool)), frame)


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"as large as its frame, \(40, 56\), but is \(20, 28\)"):
        draw_mask(np.zeros((40, 56, 3), np.uint8), np.zeros((20, 28), bool))


def test_a_film_draws_the_nearest_second_and_keeps_the_sound(tmp_path):
    sound = np.sin(np.arange(40000) / 8).astype(np.float32) / 2
    write_clip(tmp_path / "clip.mp4", np.full((20, 40, 56, 3), 60, np.uint8), 8, sound)
    masks = [square(), np.zeros((40, 56), bool)]
    segmentation = segmentation_of(tmp_path / "clip.mp4", masks, 2.5, waveform=sound)
    film = write_overlay(segmentation, tmp_path / "overlay.mp4")
    read = read_clip(film, frame_times_seconds=[i / 10 for i in range(25)])
    # 0.9375 is nearest up to 1.4375
    assert is_marked(read.frames).tolist() == [True] * 15 + [False] * 10
    assert read.duration_seconds == pytest.approx(2.5, abs=0.1)
    assert np.abs(read.waveform[:40000] - sound).mean() < 0.05
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "overlay.mp4"]


def test_a_film_of_an_odd_size_without_sound(tmp_path, monkeypatch):
    frames = np.full((10, 41, 57, 3), 60, np.uint8)
    # `write_clip` makes no file of such a size
    clip = Clip(tmp_path / "a.mkv", frames=frames)
    monkeypatch.setattr("hf_emktd.hub.mask_pictures.read_clip", lambda path, **options: clip)
    film = write_overlay(segmentation_of(tmp_path / "a.mkv", [square((41, 57))], 1.0), tmp_path / "overlay.mp4")
    read = read_clip(film)
    assert read.frames.shape[1:3] == (40, 56) and read.waveform is None
    assert is_marked(read.frames).all()


def test_a_clip_that_has_gone_is_said(tmp_path):
    with pytest.raises(MediaError, match="does not exist"):
        write_overlay(segmentation_of(tmp_path / "gone.mp4", [square()], 1.0), tmp_path / "overlay.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_strip_has_frames_above_and_masks_below(tmp_path):
    masks = [square(), np.zeros((40, 56), bool), square()]
    strip = Image.open(write_strip(segmentation_of(Path("a.mp4"), masks, 3.0), tmp_path / "strip.png"))
    assert [path.name for path in tmp_path.iterdir()] == ["strip.png"]
    assert strip.size == (110 + 3 * 244, 24 + 2 * (171 + 4))
    pixels = np.asarray(strip)
    middles = [(110 + column * 244 + 120) for column in range(3)]
    assert [pixels[24 + 85, x].tolist() for x in middles] == [[60, 60, 60]] * 3
    below = [pixels[24 + 175 + 85, x].tolist() for x in middles]
    assert below[1] == [60, 60, 60] and below[0] == below[2] == [148, 33, 91]


def test_rows_for_comparison():
    frames = np.full((4, 40, 56, 3), 60, np.uint8)
    empty = np.zeros((4, 40, 56), bool)
    picture = draw_comparison(frames, {"ground truth": np.stack([square()] * 4), "student": empty})
    assert picture.size == (110 + 4 * 244, 3 * 175)
    pixels = np.asarray(picture)
    assert pixels[175 + 85, 230].tolist() == [148, 33, 91]
    assert pixels[350 + 85, 230].tolist() == pixels[85, 230].tolist() == [60, 60, 60]
    with pytest.raises(ValueError):
        draw_comparison(frames, {"student": empty[:3]})
