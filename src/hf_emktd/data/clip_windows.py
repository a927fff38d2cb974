"""Reads a file of any length as a row of clips, one at a time: no more than a window of it is held."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np

from .media import READ_ERRORS, Clip, EmbeddedMedia, MediaError, PathLike, as_media_error, read_clip
from .media.containers import checked_path, header_duration, open_container
from .media.pictures import best_picture_stream, on_screen
from .media.sound import LONGEST_HOLE_SECONDS, one_channel, resampled, without_holes
from .media.streams import StreamReader, demuxed, prepare_decoder, presentation_ticks

# What an encoder's padding adds to a file is no window of its own.
SHORTEST_REST_SECONDS = 0.1
# Less than the slowest speech codec takes: a header that states a longer time is damaged.
FEWEST_BYTES_PER_SECOND = 100


def window_starts(duration: float, window_seconds: float, stride_seconds: float | None = None) -> list[float]:
    """
    Where windows begin that cover `duration` seconds: every `stride_seconds`, and the last one so that it ends with
    the file. A file no longer than a window, or by less than 0.1 s, is one window.

    Args:
        duration (`float`): Length of the file in seconds.
        window_seconds (`float`): Length of a window.
        stride_seconds (`float`, *optional*): From one to the next; by default `window_seconds`.

    Raises:
        `ValueError`: a length is not positive, or the windows would leave gaps.
    """
    stride = window_seconds if stride_seconds is None else stride_seconds
    if not 0 < stride <= window_seconds:
        raise ValueError(
            f"stride_seconds must be positive and at most window_seconds = {window_seconds}, got {stride}; a longer "
            "one would leave parts of the file unseen."
        )
    last = duration - window_seconds
    if last < SHORTEST_REST_SECONDS:
        return [0.0]
    count = math.ceil((last - SHORTEST_REST_SECONDS) / stride)
    return [*(index * stride for index in range(count)), last]


def read_duration(path: PathLike | EmbeddedMedia) -> float:
    """
    Seconds that a file lasts: as its header states, or as its packets do where the header states nothing or more than
    an hour at less than 100 bytes a second. Time stamps that jump ahead by more than an hour are not believed.

    Raises:
        [`MediaError`]: The file is missing or broken.
    """
    medium, path = _medium(path)
    with _read_errors_of(path), open_container(medium) as container:
        stated = header_duration(container, path)
        size = len(medium.content) if isinstance(medium, EmbeddedMedia) else medium.stat().st_size
        if stated is not None and stated <= max(LONGEST_HOLE_SECONDS, size / FEWEST_BYTES_PER_SECOND):
            return stated
        return _end_of_packets(container)


def read_windows(
    path: PathLike | EmbeddedMedia,
    starts: Sequence[float],
    window_seconds: float,
    *,
    sampling_rate: int = 16000,
    num_frames: int = 10,
    frame_times_seconds: Sequence[float] | None = None,
    read_audio: bool = True,
    read_video: bool = True,
    mix_channels: bool = False,
) -> Iterator[Clip]:
    """
    The windows of a file as [`read_clip`] would give them if each were a file of its own; decoded once, in one pass,
    and held one at a time.

    Args:
        path (`str`, `os.PathLike` or [`EmbeddedMedia`]): Any of `media.CONTAINERS`.
        starts (sequence of `float`): Where the windows begin, ascending, see [`window_starts`].
        window_seconds (`float`): Their length.
        sampling_rate, num_frames, frame_times_seconds, read_audio, read_video, mix_channels: As of [`read_clip`];
            times count from the start of a window.

    Yields:
        [`Clip`]: `waveform` or `frames` is `None` where the file has no such stream, or it has ended before the
        window.

    Raises:
        [`MediaError`]: as [`read_clip`].
    """
    streams = {"read_audio": read_audio, "read_video": read_video, "mix_channels": mix_channels}
    if len(starts) == 1:
        frames = {"num_frames": num_frames, "frame_times_seconds": frame_times_seconds}
        yield read_clip(path, sampling_rate=sampling_rate, max_seconds=window_seconds, **frames, **streams)
        return
    medium, path = _medium(path)
    offsets = frame_times_seconds or [index * window_seconds / num_frames for index in range(num_frames)]
    # not around the yield: what the caller raises is not the file's fault
    with _read_errors_of(path), ExitStack() as stack:
        heard, seen = (stack.enter_context(open_container(medium)) for _ in range(2))
        end = starts[-1] + window_seconds
        sound = _Sound(path, heard, end, sampling_rate, mix_channels) if read_audio else None
        pictures = _Pictures(path, seen, starts, offsets) if read_video else None
        opened = stack.pop_all()
    with opened:
        for start in starts:
            with _read_errors_of(path):
                clip = _window(path, start, window_seconds, sound, pictures)
            yield clip


def _window(path: Path, start: float, seconds: float, sound: _Sound | None, pictures: _Pictures | None) -> Clip:
    clip = Clip(path, duration_seconds=seconds)
    if sound is not None:
        clip.waveform = sound.between(start, start + seconds)
        clip.sampling_rate = None if clip.waveform is None else sound.rate
    if pictures is not None:
        clip.frames = pictures.of_next_window(start)
    return clip


def _medium(path: PathLike | EmbeddedMedia) -> tuple[Path | EmbeddedMedia, Path]:
    medium = path if isinstance(path, EmbeddedMedia) else Path(path)
    return medium, checked_path(medium)


@contextmanager
def _read_errors_of(path: Path) -> Iterator[None]:
    try:
        yield
    except MediaError:
        raise
    except READ_ERRORS as error:
        raise as_media_error(path, error) from error


def _end_of_packets(container: av.container.InputContainer) -> float:
    origin = Fraction(container.start_time or 0, av.time_base)
    longest = Fraction(LONGEST_HOLE_SECONDS)
    ends: dict[int, Fraction] = {}
    for packet in demuxed(container):
        timestamp = presentation_ticks(packet)
        if not packet.size or timestamp is None:
            continue
        start, before = timestamp * packet.time_base - origin, ends.get(packet.stream_index, Fraction(0))
        if start - before <= longest:
            lasts = min((packet.duration or 0) * packet.time_base, longest)
            ends[packet.stream_index] = max(before, start + lasts)
    return float(max(ends.values(), default=0))


class _Sound:
    """The sound of a file from window to window."""

    def __init__(
        self, path: Path, container: av.container.InputContainer, end: float, sampling_rate: int, mix_channels: bool
    ) -> None:
        self.path, self.end, self.rate = path, end, sampling_rate
        stream = container.streams.best("audio")
        self.reader = None
        self.blocks: Iterator[np.ndarray] = iter(())
        if stream is not None:
            prepare_decoder(path, stream)
            self.reader = StreamReader(container, stream, end)
            self.blocks = self._blocks(mix_channels)
        self.held, self.first = np.zeros(0, np.float32), 0

    def _blocks(self, mix_channels: bool) -> Iterator[np.ndarray]:
        pieces = one_channel(self.reader, mix_channels)
        piece = next(pieces, None)
        self.reader.close(Clip(self.path), found=piece is not None)
        if piece is None:
            return
        waveform = without_holes(chain([piece], pieces), end=self.end)
        yield from waveform if piece[0] == self.rate else resampled(waveform, piece[0], self.rate)

    def between(self, start: float, end: float) -> np.ndarray | None:
        """Samples of a window, fewer at the end of the sound and `None` after it; windows only ever move on."""
        first, last = round(start * self.rate), round(end * self.rate)
        parts = [self.held[first - self.first :]]
        length, self.first = len(parts[0]), first
        while length < last - first and (block := next(self.blocks, None)) is not None:
            parts.append(block)
            length += len(block)
        self.held = np.concatenate(parts)
        return self.held[: last - first].copy() if length else None


class _Pictures:
    """The frames of a file from window to window, `offsets` seconds after the start of each."""

    def __init__(
        self,
        path: Path,
        container: av.container.InputContainer,
        starts: Sequence[float],
        offsets: Sequence[float],
    ) -> None:
        self.path = path
        self.offsets = [Fraction(offset) for offset in offsets]
        self.reader = None
        stream = best_picture_stream(container)
        self.chosen: Iterator[tuple[Fraction, np.ndarray]] = iter(())
        if stream is not None:
            prepare_decoder(path, stream)
            self.reader = StreamReader(container, stream, math.inf)
            # each once: windows may overlap
            self.wanted = sorted({Fraction(start) + offset for start in starts for offset in self.offsets})
            self.chosen = self._chosen()
        self.held: deque[tuple[Fraction, np.ndarray]] = deque()

    def _chosen(self) -> Iterator[tuple[Fraction, np.ndarray]]:
        """Wanted time and picture."""
        shown = on_screen(self.reader, self.wanted)
        first = next(shown, None)
        self.reader.close(Clip(self.path), found=first is not None)
        if first is not None:
            yield from zip(self.wanted, (image for _, image in chain([first], shown)), strict=False)

    def of_next_window(self, start: float) -> np.ndarray | None:
        """`(frames, height, width, 3)`, `None` where the picture ended before `start`."""
        begin = Fraction(start)
        while self.held and self.held[0][0] < begin:
            self.held.popleft()
        last = begin + max(self.offsets)
        while (not self.held or self.held[-1][0] < last) and (entry := next(self.chosen, None)) is not None:
            self.held.append(entry)
        images = dict(self.held)
        if not images or (self.reader.reached_end and self.reader.end is not None and self.reader.end <= begin):
            return None
        return np.stack([images[begin + offset] for offset in self.offsets])
