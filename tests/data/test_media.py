"""Reading and writing of media files, on files made here and, where at hand, on ten that trip decoders."""

from __future__ import annotations

import pickle
import struct
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from hf_emktd.data.media import EmbeddedMedia, MediaError, pictures, read_clip, read_image, write_clip

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
needs_shared = pytest.mark.skipif(not (SHARED / "odd_media").is_dir(), reason="the folder of odd media is not here")


def grey_frames(count: int, height: int = 48, width: int = 64, step: int = 8) -> np.ndarray:
    """Frame i is plain grey of level i * step, so a read frame tells its own index."""
    levels = (np.arange(count) * step).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def indices_of(frames: np.ndarray, step: int = 8) -> list[int]:
    return np.round(frames.mean(axis=(1, 2, 3)) / step).astype(int).tolist()


def tone(seconds: float, rate: int, hertz: float = 440.0, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_wav(path: Path, channels: list[np.ndarray], rate: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.stack(channels, axis=1) * 32767).round().astype("<i2").tobytes())


def write_timed_video(path: Path, frames: np.ndarray, times_ms: list[int]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "1", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for image, milliseconds in zip(frames, times_ms, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = milliseconds, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def set_display_matrix(path: Path, matrix: tuple[int, ...]) -> None:
    """Overwrites the matrix (a b u c d v x y w, fixed point) in the track header of an mp4 file."""
    content = bytearray(path.read_bytes())
    # version and flags, two dates, track, reserved, duration, 8 reserved, layer, group, volume, reserved
    start = content.index(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 8
    content[start : start + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(bytes(content))


class TestSound:
    @pytest.mark.parametrize("others", [0, 1, 2])
    def test_keeps_the_first_channel_only(self, tmp_path, others):
        first = tone(0.5, 16000)
        write_wav(tmp_path / "a.wav", [first, *[tone(0.5, 16000, 1000.0)] * others], 16000)
        clip = read_clip(tmp_path / "a.wav")
        np.testing.assert_allclose(clip.waveform, first, atol=1 / 32767)
        assert clip.waveform.dtype == np.float32
        assert clip.frames is None and clip.frame_times_seconds is None
        assert clip.duration_seconds == 0.5

    @pytest.mark.parametrize("rate", [16000, 44100])
    def test_mixes_channels_when_asked(self, tmp_path, rate):
        first, second = tone(1, rate), tone(1, rate, 1000.0, 0.3)
        write_wav(tmp_path / "a.wav", [first, second], rate)
        waveform = read_clip(tmp_path / "a.wav", sampling_rate=None, mix_channels=True).waveform
        np.testing.assert_allclose(waveform, (first + second) / 2, atol=1 / 32767)
        assert waveform.dtype == np.float32

    def test_resampling_is_stated_and_keeps_pitch_and_level(self, tmp_path):
        write_wav(tmp_path / "a.wav", [tone(2, 44100, hertz=1000.0)], 44100)
        clip = read_clip(tmp_path / "a.wav", sampling_rate=16000)
        assert (clip.sampling_rate, clip.source_sampling_rate, len(clip.waveform)) == (16000, 44100, 32000)
        middle = slice(8000, 24000)
        np.testing.assert_allclose(clip.waveform[middle], tone(2, 16000, 1000.0)[middle], atol=2e-3)

    def test_keeps_the_files_own_rate_when_asked(self, tmp_path):
        samples = tone(0.25, 8000)
        write_wav(tmp_path / "a.wav", [samples], 8000)
        clip = read_clip(tmp_path / "a.wav", sampling_rate=None)
        assert (clip.sampling_rate, clip.source_sampling_rate) == (8000, 8000)
        np.testing.assert_allclose(clip.waveform, samples, atol=1 / 32767)

    def test_cuts_at_max_seconds(self, tmp_path):
        write_wav(tmp_path / "a.wav", [tone(3, 16000)], 16000)
        assert len(read_clip(tmp_path / "a.wav", max_seconds=1.25).waveform) == 20000
        assert len(read_clip(tmp_path / "a.wav", max_seconds=None).waveform) == 48000

    def test_a_hole_between_samples_is_silence(self, tmp_path):
        path = tmp_path / "a.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
            for start in (0, 16000):
                frame = av.AudioFrame.from_ndarray(np.full((1, 8000), 16384, np.int16), format="s16", layout="mono")
                frame.sample_rate, frame.time_base, frame.pts = 16000, Fraction(1, 16000), start
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        expected = np.zeros(24000, np.float32)
        expected[:8000] = expected[16000:] = 0.5
        np.testing.assert_array_equal(read_clip(path).waveform, expected)


class TestFrames:
    @pytest.mark.parametrize("count, rate, asked", [(30, 10, 10), (25, 25, 10), (24, 24, 7), (12, 30000 / 1001, 5)])
    def test_even_frames_are_those_of_the_official_index(self, tmp_path, count, rate, asked):
        write_clip(tmp_path / "a.mp4", grey_frames(count), rate)
        clip = read_clip(tmp_path / "a.mp4", num_frames=asked)
        expected = [int(i * (count / asked)) for i in range(asked)]
        assert indices_of(clip.frames) == expected
        np.testing.assert_allclose(clip.frame_times_seconds, np.array(expected) / rate, atol=1e-4)

    def test_only_the_first_max_seconds_count(self, tmp_path):
        write_clip(tmp_path / "a.mp4", grey_frames(30), 2)
        assert indices_of(read_clip(tmp_path / "a.mp4").frames) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]

    def test_fewer_frames_than_asked_repeat(self, tmp_path):
        write_clip(tmp_path / "a.mp4", grey_frames(3), 3)
        assert indices_of(read_clip(tmp_path / "a.mp4", num_frames=6).frames) == [0, 0, 1, 1, 2, 2]

    def test_chosen_times_in_any_order(self, tmp_path):
        write_clip(tmp_path / "a.mp4", grey_frames(20), 10)
        clip = read_clip(tmp_path / "a.mp4", frame_times_seconds=[1.55, 0.0, 9.0, 0.3, 1.55])
        assert indices_of(clip.frames) == [15, 0, 19, 3, 15]
        np.testing.assert_allclose(clip.frame_times_seconds, [1.5, 0.0, 1.9, 0.3, 1.5])

    def test_variable_frame_rate_goes_by_time(self, tmp_path):
        # one second of eight quick frames, then one frame for three seconds
        times = [0, 125, 250, 375, 500, 625, 750, 875, 1000, 3900]
        write_timed_video(tmp_path / "a.mkv", grey_frames(10), times)
        clip = read_clip(tmp_path / "a.mkv", frame_times_seconds=[0.13, 0.9, 1.0, 2.0, 3.0, 3.95])
        assert indices_of(clip.frames) == [1, 7, 8, 8, 8, 9]

    @pytest.mark.parametrize(
        "matrix, turn",
        [
            ((0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30), lambda image: np.rot90(image, -1)),
            ((0, -65536, 0, 65536, 0, 0, 0, 0, 1 << 30), lambda image: np.rot90(image, 1)),
            ((-65536, 0, 0, 0, -65536, 0, 0, 0, 1 << 30), lambda image: np.rot90(image, 2)),
            ((-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30), lambda image: image[:, ::-1]),
        ],
        ids=["clockwise", "counterclockwise", "upside down", "mirrored"],
    )
    def test_display_matrix_is_applied(self, tmp_path, matrix, turn):
        corners = np.zeros((4, 48, 64, 3), np.uint8)
        corners[:, :24, :32], corners[:, :24, 32:], corners[:, 24:, :32] = 220, 150, 80
        write_clip(tmp_path / "a.mp4", corners, 4)
        set_display_matrix(tmp_path / "a.mp4", matrix)
        image = read_clip(tmp_path / "a.mp4", num_frames=1).frames[0]
        expected = turn(corners[0])
        assert image.shape == expected.shape
        np.testing.assert_allclose(image[8:-8:8, 8:-8:8], expected[8:-8:8, 8:-8:8], atol=6)

    def test_colours_come_as_rgb(self, tmp_path):
        frames = np.zeros((2, 32, 32, 3), np.uint8)
        frames[..., 0] = 200
        write_clip(tmp_path / "a.mp4", frames, 2)
        np.testing.assert_allclose(read_clip(tmp_path / "a.mp4").frames.mean(axis=(0, 1, 2)), [200, 0, 0], atol=5)


class TestMissingAndBroken:
    def test_a_missing_stream_is_none(self, tmp_path):
        write_clip(tmp_path / "mute.mp4", grey_frames(4), 4)
        write_clip(tmp_path / "blind.mp4", None, 4, tone(1, 16000))
        mute, blind = read_clip(tmp_path / "mute.mp4"), read_clip(tmp_path / "blind.mp4")
        assert mute.waveform is None and mute.sampling_rate is None and mute.frames.shape == (10, 48, 64, 3)
        assert blind.frames is None and blind.waveform.shape == (16384,)

    def test_a_stream_not_asked_for_is_none(self, tmp_path):
        write_clip(tmp_path / "a.mp4", grey_frames(4), 4, tone(1, 16000))
        assert read_clip(tmp_path / "a.mp4", read_audio=False).waveform is None
        assert read_clip(tmp_path / "a.mp4", read_video=False).frames is None

    def test_cover_art_is_not_a_picture_stream(self, tmp_path):
        path = tmp_path / "song.mp4"
        with av.open(str(path), "w") as container:
            sound = container.add_stream("aac", rate=16000, layout="mono")
            cover = container.add_stream("mjpeg", rate=1)
            cover.height, cover.width, cover.pix_fmt = 32, 32, "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic
            container.mux(cover.encode(av.VideoFrame.from_ndarray(grey_frames(1, 32, 32)[0], format="rgb24")))
            frame = av.AudioFrame.from_ndarray(tone(1, 16000)[None], format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
        clip = read_clip(path)
        assert clip.frames is None
        assert clip.waveform is not None

    @pytest.mark.parametrize(
        "make, reason",
        [
            (lambda path: None, "does not exist"),
            (lambda path: path.mkdir(), "is not a file"),
            (lambda path: path.touch(), "is empty"),
            (lambda path: path.write_bytes(b"not a media file at all " * 100), "cannot be read"),
            (lambda path: path.write_bytes(bytes(5000)), "cannot be read"),
        ],
        ids=["missing", "folder", "empty", "text", "zeros"],
    )
    def test_broken_files_raise_media_error(self, tmp_path, make, reason):
        path = tmp_path / "a.mp4"
        make(path)
        with pytest.raises(MediaError, match=reason) as caught:
            read_clip(path)
        assert caught.value.path == path
        assert str(path) in str(caught.value)

    def test_cut_short_inside_the_index_raises_media_error(self, tmp_path):
        write_clip(tmp_path / "a.mp4", grey_frames(8), 4, tone(2, 16000))
        content = (tmp_path / "a.mp4").read_bytes()
        (tmp_path / "a.mp4").write_bytes(content[: len(content) // 2])
        with pytest.raises(MediaError, match="cannot be read"):
            read_clip(tmp_path / "a.mp4")

    def test_a_hole_of_zeros_costs_only_what_lies_in_it(self, tmp_path):
        noise = np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), dtype=np.uint8)
        write_clip(tmp_path / "a.mp4", noise, 10)
        content = bytearray((tmp_path / "a.mp4").read_bytes())
        middle = content.index(b"mdat") + (content.index(b"moov") - content.index(b"mdat")) // 2
        content[middle : middle + 20000] = bytes(20000)
        (tmp_path / "a.mp4").write_bytes(bytes(content))
        clip = read_clip(tmp_path / "a.mp4")
        assert clip.decode_errors > 0
        assert clip.frames.shape == (10, 64, 64, 3)

    def test_nothing_decodable_raises_media_error(self, tmp_path):
        write_clip(tmp_path / "a.mp4", grey_frames(8), 4)
        content = bytearray((tmp_path / "a.mp4").read_bytes())
        start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
        content[start:end] = b"\xff" * (end - start)
        (tmp_path / "a.mp4").write_bytes(bytes(content))
        with pytest.raises(MediaError, match=r"picture stream \(h264\) but nothing of it can be decoded"):
            read_clip(tmp_path / "a.mp4")

    def test_media_error_survives_a_worker_process(self):
        error = pickle.loads(pickle.dumps(MediaError("a.mp4", "is empty")))
        assert (error.path, error.reason, str(error)) == (Path("a.mp4"), "is empty", "a.mp4: is empty")

    @pytest.mark.parametrize(
        "options",
        [
            {"sampling_rate": 0},
            {"num_frames": 0},
            {"max_seconds": 0},
            {"frame_times_seconds": []},
            {"frame_times_seconds": [11.0]},
            {"frame_times_seconds": [-0.1]},
        ],
        ids=str,
    )
    def test_arguments_out_of_range(self, tmp_path, options):
        write_wav(tmp_path / "a.wav", [tone(0.1, 16000)], 16000)
        with pytest.raises(ValueError, match=next(iter(options))) as caught:
            read_clip(tmp_path / "a.wav", **options)
        assert not isinstance(caught.value, MediaError)


def test_a_long_file_is_read_only_as_far_as_needed(tmp_path):
    path = tmp_path / "long.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (240, 32, 32, 3), dtype=np.uint8)
    write_clip(path, noise, 2, tone(120, 16000))
    whole = read_clip(path)
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        late = [(p.pos, p.size) for p in container.demux() if p.size and p.pts * p.time_base >= 11]
    for position, size in late:
        content[position : position + size] = b"\xff" * size
    path.write_bytes(bytes(content))
    clip = read_clip(path)
    assert clip.decode_errors == 0
    assert len(clip.waveform) == 160000 and clip.duration_seconds == pytest.approx(120, abs=0.1)
    np.testing.assert_array_equal(clip.frames, whole.frames)
    assert read_clip(path, max_seconds=20).decode_errors > 0


class TestWriteClip:
    def test_round_trip(self, tmp_path):
        frames = np.random.default_rng(0).integers(0, 255, (10, 6, 8, 1), dtype=np.uint8).repeat(3, 3)
        frames = frames.repeat(8, 1).repeat(8, 2)
        write_clip(tmp_path / "a.mp4", frames, 10, tone(1, 16000))
        clip = read_clip(tmp_path / "a.mp4")
        assert np.abs(clip.frames.astype(int) - frames).mean() < 4
        np.testing.assert_allclose(clip.waveform[2000:14000], tone(1, 16000)[2000:14000], atol=0.1)
        assert clip.duration_seconds == pytest.approx(1.0)

    def test_same_input_same_bytes_and_nothing_left_beside(self, tmp_path):
        for name in ("a.mp4", "b.mp4"):
            write_clip(tmp_path / name, grey_frames(10), 10, tone(1, 16000))
        assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]

    @pytest.mark.parametrize(
        "frames, waveform, rate, message",
        [
            (None, None, 16000, "nothing to write"),
            (np.zeros((2, 33, 32, 3), np.uint8), None, 16000, "even height and width, got 33 x 32"),
            (np.zeros((2, 32, 32, 3), np.float32), None, 16000, "must be uint8"),
            (np.zeros((0, 32, 32, 3), np.uint8), None, 16000, "must be uint8 of shape"),
            (None, np.zeros((1, 100), np.float32), 16000, "float32 of shape"),
            (None, np.full(100, np.nan, np.float32), 16000, "infinite or undefined"),
            (None, np.zeros(100, np.float32), 12345, "no sampling rate 12345"),
        ],
    )
    def test_refuses_what_cannot_be_written(self, tmp_path, frames, waveform, rate, message):
        with pytest.raises(ValueError, match=message):
            write_clip(tmp_path / "a.mp4", frames, 10, waveform, rate)
        assert not list(tmp_path.iterdir())


class TestReadImage:
    def test_turns_by_exif_and_gives_rgb(self, tmp_path):
        picture = np.zeros((16, 32), np.uint8)
        picture[:, :16] = 200
        exif = Image.Exif()
        exif[0x0112] = 6  # shown turned clockwise
        Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
        image = read_image(tmp_path / "a.png")
        assert image.shape == (32, 16, 3) and image.dtype == np.uint8
        np.testing.assert_array_equal(image[..., 1], np.rot90(picture, -1))

    @pytest.mark.parametrize("content, reason", [(b"", "is empty"), (b"\x89PNG\r\n\x1a\nxxxx", "not a readable")])
    def test_broken_pictures(self, tmp_path, content, reason):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(MediaError, match=reason):
            read_image(tmp_path / "a.png")


@needs_shared
class TestOddMedia:
    # file: (height, width), distinct frames of ten, samples at 16 kHz, rate in the file, duration
    READABLE = {  # noqa: RUF012
        "avsbench_rotated_90.mp4": ((320, 240), 10, 80248, 44100, 5.077),
        "bigbuckbunny.mp4": ((720, 1280), 10, 84992, 48000, 5.312),
        "example.mp4": ((480, 640), 10, None, None, 2.0),
        "fixture.mkv": ((356, 640), 1, 1115, 44100, 0.092),
        "nasa_13013.mp4": ((270, 480), 10, 160000, 16000, 13.056),
        "no_duration.webm": ((720, 1280), 10, 77760, 48000, 4.874),
        "vggsound_zeros_in_the_middle.mp4": ((360, 480), 10, 160000, 44100, 10.005),
    }

    @pytest.mark.parametrize("name", READABLE)
    def test_readable(self, name):
        size, distinct, samples, rate, duration = self.READABLE[name]
        clip = read_clip(SHARED / "odd_media" / name)
        assert clip.frames.shape == (10, *size, 3)
        assert len(set(clip.frame_times_seconds)) == distinct
        assert clip.source_sampling_rate == rate
        assert (None if clip.waveform is None else len(clip.waveform)) == samples
        assert clip.duration_seconds == pytest.approx(duration, abs=1e-3)

    @pytest.mark.parametrize(
        "name, reason",
        [
            ("fixture-corrupt.mkv", "InvalidDataError"),
            ("result.webm", "is empty"),
            # opens in spite of its title's code page, but was cut off before the first sample of its 188 seconds
            ("iso8859_with_image.m4a", "sound stream .aac. but nothing of it can be decoded: 0 packets"),
        ],
    )
    def test_broken(self, name, reason):
        with pytest.raises(MediaError, match=reason):
            read_clip(SHARED / "odd_media" / name)

    def test_cover_art_of_the_cut_off_song_is_no_picture(self):
        clip = read_clip(SHARED / "odd_media" / "iso8859_with_image.m4a", read_audio=False)
        assert clip.frames is None and clip.duration_seconds == pytest.approx(188.546, abs=1e-3)

    def test_zeros_cost_pieces_but_not_the_synchrony(self):
        whole = read_clip(SHARED / "vggsound" / "clips" / "M1pPtg6a_g8_000230.mp4")
        holed = read_clip(SHARED / "odd_media" / "vggsound_zeros_in_the_middle.mp4")
        assert whole.decode_errors == 0 and holed.decode_errors == 24
        np.testing.assert_array_equal(holed.frames[:5], whole.frames[:5])
        np.testing.assert_allclose(holed.waveform[:64000], whole.waveform[:64000], atol=1e-6)
        # 14 lost pieces of 1024 samples at 44.1 kHz are 0.33 s; sound after them stays within 0.1 s of its place
        late, lags = whole.waveform[128000:144000], np.arange(-6400, 6401)
        likeness = [np.dot(holed.waveform[128000 + lag : 144000 + lag], late) for lag in lags]
        assert abs(lags[np.argmax(likeness)]) <= 1600

    def test_rotated_clip_is_the_upright_one_turned(self):
        upright = read_clip(SHARED / "avsbench" / "clips" / "p04SYXuBSQ.mp4").frames
        rotated = read_clip(SHARED / "odd_media" / "avsbench_rotated_90.mp4").frames
        np.testing.assert_array_equal(rotated, np.rot90(upright, -1, axes=(1, 2)))


class TestSkippedFrames:
    """Of H.264, frames that neither are wanted nor help to decode another are not decoded."""

    @pytest.fixture(
        scope="class", params=["bframes=3", "bframes=8:b-pyramid=normal:ref=4", "bframes=3:open-gop=1:keyint=9"]
    )
    def path(self, request, tmp_path_factory):
        path = tmp_path_factory.mktemp("skipped") / "clip.mp4"
        random = np.random.default_rng(0)
        texture = random.integers(0, 256, (48, 160, 3), dtype=np.uint8)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"x264-params": request.param})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for shift in range(60):
                shown = np.ascontiguousarray(texture[:, shift : shift + 64])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
            container.mux(stream.encode(None))
        return path

    @pytest.mark.parametrize("num_frames", [1, 7, 60])
    def test_leave_the_wanted_ones_as_they_are(self, path, num_frames):
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(video=0)]
        wanted = [index * len(frames) // num_frames for index in range(num_frames)]
        np.testing.assert_array_equal(
            read_clip(path, num_frames=num_frames).frames, np.stack([frames[i] for i in wanted])
        )

    def test_are_not_decoded(self, path, monkeypatch):
        decoded = []
        timed = pictures._timed_frames
        monkeypatch.setattr(pictures, "_timed_frames", lambda reader: (decoded.append(f) or f for f in timed(reader)))
        read_clip(path, num_frames=3)
        assert len(decoded) < 50


def test_a_file_in_memory_is_read_as_one_on_disk(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), np.uint8)
    write_clip(tmp_path / "clip.mp4", frames, 5, np.full(8000, 0.1, np.float32))
    first = read_clip(tmp_path / "clip.mp4")
    second = read_clip(EmbeddedMedia("clip.mp4", (tmp_path / "clip.mp4").read_bytes()))
    np.testing.assert_array_equal(first.frames, second.frames)
    np.testing.assert_array_equal(first.waveform, second.waveform)
    with pytest.raises(MediaError, match=r"clip\.mp4: is empty"):
        read_clip(EmbeddedMedia("clip.mp4", b""))
