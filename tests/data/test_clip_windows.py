from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from hf_emktd.data import MediaError, read_clip, write_clip
from hf_emktd.data.clip_windows import read_duration, read_windows, window_starts

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
RATE = 16000


def pictures(seconds: float, rate: int = 10) -> np.ndarray:
    """Each frame has a grey level of its own."""
    count = round(seconds * rate)
    shades = np.linspace(0, 250, count).astype(np.uint8)
    return np.broadcast_to(shades[:, None, None, None], (count, 16, 24, 3)).copy()


def rising_tone(seconds: float, rate: int = RATE) -> np.ndarray:
    times = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (200 + 100 * times) * times)).astype(np.float32)


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("windows") / "long.mp4"
    write_clip(path, pictures(6), 10, rising_tone(6))
    return path


class TestStarts:
    @pytest.mark.parametrize(
        ("duration", "options", "starts"),
        [
            (0.5, (2,), [0]),
            (2, (2,), [0]),
            (2.05, (2,), [0]),  # an encoder's padding
            (6, (2,), [0, 2, 4]),
            (6.05, (2,), [0, 2, 4.05]),
            (5, (2,), [0, 2, 3]),
            (5, (2, 1), [0, 1, 2, 3]),
            (4.5, (2, 1), [0, 1, 2, 2.5]),
        ],
    )
    def test_windows_cover_the_file_and_end_with_it(self, duration, options, starts):
        assert window_starts(duration, *options) == pytest.approx(starts)

    def test_any_length_is_covered(self):
        for duration in np.arange(2.1, 20, 0.37):
            starts = window_starts(duration, 2, 1.5)
            assert starts[0] == 0 and starts[-1] + 2 == pytest.approx(duration)
            assert all(0 < following - start <= 1.5 + 0.1 for start, following in pairwise(starts))

    @pytest.mark.parametrize("stride", [0, -1, 3])
    def test_gaps_are_refused(self, stride):
        with pytest.raises(ValueError, match="at most window_seconds = 2"):
            window_starts(10, 2, stride)


class TestWindows:
    @pytest.mark.parametrize("starts", [[0, 2, 4], [0, 1, 2, 3, 4], [0, 1.5, 3.5]])
    @pytest.mark.parametrize("rate", [RATE, 8000])
    def test_are_the_pieces_of_the_whole(self, long_clip, starts, rate):
        whole = read_clip(long_clip, sampling_rate=rate, num_frames=60, max_seconds=None)
        windows = list(read_windows(long_clip, starts, 2, sampling_rate=rate, num_frames=4))
        assert len(windows) == len(starts)
        for start, window in zip(starts, windows, strict=True):
            first = round(start * rate)
            np.testing.assert_allclose(window.waveform, whole.waveform[first : first + 2 * rate], atol=1e-6)
            expected = whole.frames[[round(10 * (start + offset)) for offset in (0, 0.5, 1, 1.5)]]
            assert np.array_equal(window.frames, expected)

    def test_one_window_is_what_read_clip_gives(self, long_clip):
        (window,) = read_windows(long_clip, [0.0], 3)
        clip = read_clip(long_clip, max_seconds=3)
        assert np.array_equal(window.waveform, clip.waveform) and np.array_equal(window.frames, clip.frames)

    def test_times_count_from_the_start_of_a_window(self, long_clip):
        windows = read_windows(long_clip, [0, 2], 2, frame_times_seconds=[0.25, 1.95])
        whole = read_clip(long_clip, frame_times_seconds=[0.25, 1.95, 2.25, 3.95])
        frames = np.concatenate([window.frames for window in windows])
        assert np.array_equal(frames, whole.frames)

    @pytest.mark.parametrize("streams", [("read_audio", "waveform"), ("read_video", "frames")])
    def test_reads_one_stream_alone(self, long_clip, streams):
        option, field = streams
        assert all(getattr(window, field) is None for window in read_windows(long_clip, [0, 2], 2, **{option: False}))

    def test_a_stream_that_ends_early_is_absent_afterwards(self, tmp_path):
        write_clip(tmp_path / "sound_longer.mp4", pictures(3), 10, rising_tone(6))
        windows = list(read_windows(tmp_path / "sound_longer.mp4", [0, 2, 4], 2))
        assert [window.frames is None for window in windows] == [False, False, True]
        write_clip(tmp_path / "picture_longer.mp4", pictures(6), 10, rising_tone(3))
        windows = list(read_windows(tmp_path / "picture_longer.mp4", [0, 2, 4], 2))
        assert [window.waveform is None for window in windows] == [False, False, True]
        assert len(windows[1].waveform) == pytest.approx(RATE, abs=2048)

    def test_soundless(self, tmp_path):
        write_clip(tmp_path / "clip.mp4", pictures(4), 10)
        windows = list(read_windows(tmp_path / "clip.mp4", [0, 2], 2))
        assert all(window.waveform is None and window.sampling_rate is None for window in windows)


class TestDuration:
    def test_of_the_header(self, long_clip):
        assert read_duration(long_clip) == pytest.approx(6, abs=0.1)

    def test_of_the_packets_where_the_header_is_silent(self, tmp_path):
        path = tmp_path / "recording.mkv"
        with path.open("wb") as file:  # as a browser records: nobody goes back to write the length
            unseekable = type("Recorder", (), {"write": file.write})()
            with av.open(unseekable, "w", format="matroska") as container:
                stream = container.add_stream("libx264", rate=10)
                stream.width, stream.height, stream.pix_fmt = 24, 16, "yuv420p"
                for image in pictures(2):
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
                container.mux(stream.encode(None))
        with av.open(str(path)) as container:
            assert container.duration is None
        assert read_duration(path) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("content", [None, b"", b"no film at all " * 100])
def test_what_cannot_be_read_is_refused(tmp_path, content):
    path = tmp_path / "broken.mp4"
    if content is not None:
        path.write_bytes(content)
    for reading in (lambda: read_duration(path), lambda: list(read_windows(path, [0, 2], 2))):
        with pytest.raises(MediaError, match=r"broken\.mp4"):
            reading()


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the odd media files")
def test_a_header_without_a_duration():
    path = SHARED / "odd_media" / "no_duration.webm"
    assert read_clip(path).duration_seconds == pytest.approx(read_duration(path), abs=0.1)
