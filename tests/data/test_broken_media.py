"""A sample of the torture of media files: what is broken in a known way, and a little fuzzing."""

from __future__ import annotations

import numpy as np

from broken_clips import ANY, broken_clips
from good_clips import wav, write, write_all
from hf_emktd.data.clip_windows import read_duration
from hf_emktd.data.media import MediaNotFoundError, read_clip
from isolated_reading import IsolatedReader

EVERY = 30
FUZZED = 130


def test_every_broken_file_gives_a_clip_an_absence_or_media_error(tmp_path):
    read = failed = 0
    with IsolatedReader(tmp_path) as reader:
        for index, broken in enumerate(broken_clips(tmp_path, largest=False)):
            if broken.allowed != ANY or index % EVERY == 0:
                outcome = reader.read(broken.path, broken.call, **broken.options)
                assert outcome.kind in broken.allowed and broken.said in outcome.detail, (broken, outcome)
                read, failed = read + 1, failed + (outcome.kind == "MediaError")
    assert read > 400 and failed > 100


def test_so_do_files_with_random_damage(tmp_path):
    clips = write_all(tmp_path)
    with IsolatedReader(tmp_path) as reader:
        outcomes = [reader.read(clips[index % len(clips)], seed=[0, index]) for index in range(FUZZED)]
    assert all(outcome.is_allowed for outcome in outcomes), [o for o in outcomes if not o.is_allowed]
    assert {outcome.kind for outcome in outcomes} >= {"clip", "MediaError"}


def test_the_reader_itself_tells_crashes_hangs_and_floods(tmp_path):
    """By the means that the torture relies on: a process that dies, waits or takes too much is seen."""
    (clip,) = [path for path in write_all(tmp_path) if path.name == "clip.wav"]
    with IsolatedReader(tmp_path, seconds=5, megabytes=10) as reader:
        assert reader.read(clip).kind == "flood"
    with IsolatedReader(tmp_path, seconds=0) as reader:
        assert reader.read(clip).kind == "hang"
    with IsolatedReader(tmp_path, address_space=1) as reader:
        assert reader.read(clip).kind == "crash"
    with IsolatedReader(tmp_path) as reader:
        assert reader.read(clip, "no_such_call").kind == "exception"
        assert reader.read(clip).kind == "clip"


def test_the_first_channel_of_eight_is_the_first(tmp_path):
    """7.1 sound in AAC: eight planes, of which PyAV makes too many."""
    paths = [tmp_path / f"{layout}.m4a" for layout in ("mono", "7.1")]
    mono, surround = (
        read_clip(write(path, "mp4", {}, None, None, "aac", layout=path.stem)).waveform for path in paths
    )
    # the encoder gives eight channels fewer bits each
    np.testing.assert_allclose(surround[2000:6000], mono[2000:6000], atol=0.05)


def test_samples_that_are_no_sound_are_silenced_and_counted(tmp_path):
    values = np.full(16000, 0.25, np.float32)
    values[[10, 20, 30]] = np.nan, np.inf, 1e30
    (tmp_path / "a.wav").write_bytes(wav(16000, 1, values.tobytes(), tag=3, bits=32))
    clip = read_clip(tmp_path / "a.wav")
    assert clip.decode_errors == 1
    assert np.flatnonzero(clip.waveform == 0).tolist() == [10, 20, 30] and set(clip.waveform) == {0, np.float32(0.25)}


def test_sound_is_decoded_no_further_than_asked_where_time_stamps_stand_still(tmp_path):
    """A transport stream repeated: every repetition claims the same half second. The last ones are damaged."""
    path = write(tmp_path / "a.ts", "mpegts", {}, None, None, "aac")
    content = path.read_bytes()
    damaged = bytearray(content)
    for place in range(len(content) // 3, len(content), 7):
        # not the head of a packet
        damaged[place] ^= 0xFF * (place % 188 > 30)
    path.write_bytes(content * 6 + bytes(damaged) * 6)
    clip = read_clip(path, max_seconds=2.0)
    assert len(clip.waveform) == 32000 and clip.decode_errors == 0
    assert read_clip(path, max_seconds=None).decode_errors > 0


class TestDuration:
    def test_a_claim_of_days_is_checked_against_the_packets(self, tmp_path):
        path = tmp_path / "a.mkv"
        write(path, "matroska", {}, "mpeg4", "yuv420p", "flac")
        content = path.read_bytes()
        true = read_duration(path)
        place = content.index(b"\x44\x89\x88") + 3
        path.write_bytes(content[:place] + np.array(9e12, ">f8").tobytes() + content[place + 8 :])
        assert read_duration(path) == true == 0.5

    def test_a_jump_of_ten_hours_is_none(self, tmp_path):
        path = tmp_path / "a.mkv"
        write(path, "matroska", {}, "ffv1", "yuv420p", None, times_ms=(0, 100, 200, 300, 400, 36_000_000))
        assert read_duration(path) < 1


def test_a_file_that_is_not_there_has_an_error_of_its_own(tmp_path):
    for name in ("a.mp4", "a.mp4/b.mp4"):
        try:
            read_clip(tmp_path / name)
        except MediaNotFoundError as error:
            assert error.reason == "does not exist"
        else:
            raise AssertionError(name)
