"""The pictures of a media file: what is on screen at given times."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from PIL import Image

from .clip import Clip, EmbeddedMedia
from .containers import open_container
from .streams import StreamReader, measure_duration, prepare_decoder, presentation_ticks

# Matroska rounds times to milliseconds: a frame this little after a wanted time is the frame that was meant.
TIME_ROUNDING_SECONDS = Fraction(1, 2000)


def read_pictures(
    clip: Clip, medium: Path | EmbeddedMedia, num_frames: int, times: Sequence[float] | None, limit: float
) -> None:
    """Reads what is on screen at `times`, or `num_frames` evenly spaced pictures, into `clip`, if there are any."""
    shown = _shown_packets(clip, medium, limit)
    if shown is None:
        return
    start, end = _picture_span(shown, limit)
    wanted = [start + i * (end - start) / num_frames for i in range(num_frames)]
    if times is not None:
        wanted = [Fraction(time) for time in times]
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    ascending = [wanted[i] for i in order]
    for wanted_ticks in (shown.wanted_ticks(ascending), None):
        if _decode_pictures(clip, medium, ascending, order, limit, wanted_ticks):
            return


def _decode_pictures(
    clip: Clip,
    medium: Path | EmbeddedMedia,
    wanted: list[Fraction],
    order: list[int],
    limit: float,
    wanted_ticks: set[int] | None,
) -> bool:
    """What is on screen at the ascending times, each frame at its place in `order`, and whether that is all there is.

    Frames that neither are wanted nor help to decode another are left out, unless something cannot be decoded: then
    all must be tried, with no `wanted_ticks`, so that the last good one stays on screen.
    """
    clip.frames = clip.frame_times_seconds = None
    with open_container(medium) as container:
        stream = best_picture_stream(container)
        prepare_decoder(clip.path, stream)
        reader = StreamReader(container, stream, limit)
        reader.wanted_ticks = wanted_ticks
        count = 0
        for place, (time, image) in zip(order, on_screen(reader, wanted), strict=False):
            if clip.frames is None:
                clip.frames = np.empty((len(wanted), *image.shape), np.uint8)
                clip.frame_times_seconds = np.empty(len(wanted))
            clip.frames[place], clip.frame_times_seconds[place] = image, float(time)
            count += 1
        if wanted_ticks is not None and (reader.errors or count < len(wanted)):
            return False
        reader.close(clip, found=count > 0)
    return True


@dataclass
class _ShownPackets:
    """Ascending presentation times of a stream's packets in its ticks, and how long the last one is shown."""

    reader: StreamReader
    ticks: list[int]
    last_duration: int
    # Of H.264 alone it is known before decoding which frames no other one needs: HEVC's mark is for a layer only.
    can_skip: bool

    def wanted_ticks(self, wanted: list[Fraction]) -> set[int] | None:
        """The packets on screen at these times, `None` where all must be decoded."""
        if not self.can_skip:
            return None
        places = (bisect_right(self.ticks, self.reader.ticks(time + TIME_ROUNDING_SECONDS)) for time in wanted)
        return {self.ticks[max(place - 1, 0)] for place in places}


def _shown_packets(clip: Clip, medium: Path | EmbeddedMedia, limit: float) -> _ShownPackets | None:
    """From the packets alone: headers miscount frames."""
    with open_container(medium) as container:
        stream = best_picture_stream(container)
        if stream is None:
            return None
        prepare_decoder(clip.path, stream)
        reader = StreamReader(container, stream, limit)
        can_skip = stream.codec_context.name == "h264"
        shown = []
        for packet in reader.packets():
            start = presentation_ticks(packet)
            if not packet.is_discard and start is not None and start < reader.limit_ticks:
                shown.append((start, packet.duration or 0))
            can_skip &= packet.pts is not None
    measure_duration(clip, reader)
    shown.sort()
    last_duration = shown[-1][1] if shown else 0
    return _ShownPackets(reader, [start for start, _ in shown], last_duration, can_skip and bool(shown))


def best_picture_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The one that is shown by default, cover art apart."""
    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    best = container.streams.best("video")
    return best if best in pictures else next(iter(pictures), None)


def _picture_span(shown: _ShownPackets, limit: float) -> tuple[Fraction, Fraction]:
    """When the first picture comes and the last one goes."""
    if not shown.ticks:
        return Fraction(0), Fraction(0)
    start, last = (shown.reader.seconds(shown.ticks[place]) for place in (0, -1))
    duration = shown.last_duration * shown.reader.time_base
    end = last + (duration or (last - start) / max(len(shown.ticks) - 1, 1))
    return start, end if limit == math.inf else min(end, Fraction(limit))


def on_screen(reader: StreamReader, wanted: Iterable[Fraction]) -> Iterator[tuple[Fraction, np.ndarray]]:
    """Time and upright RGB picture of what is on screen at each of the ascending times; frames are held one by one."""
    times = iter(wanted)
    time = next(times, None)
    shown = size = None
    for until, following in chain(_timed_frames(reader), [(None, None)]):
        image = None
        while time is not None and shown is not None and (until is None or time < until - TIME_ROUNDING_SECONDS):
            image = _sized(_upright(shown[1]), size) if image is None else image
            size = image.shape
            yield shown[0], image
            time = next(times, None)
        if time is None:
            return
        shown = (until, following)


def _timed_frames(reader: StreamReader) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    for index, frame in enumerate(reader.frames()):
        time = reader.seconds(frame.pts)
        yield Fraction(index) / (reader.stream.average_rate or 25) if time is None else time, frame


def _sized(image: np.ndarray, size: tuple[int, ...] | None) -> np.ndarray:
    """A stream may change its size on the way; all pictures of a clip get that of the first."""
    if size is None or image.shape == size:
        return image
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """RGB picture turned and mirrored as the display matrix says (ISO/IEC 14496-12: x' = ax + cy, y' = bx + dy)."""
    # One thread: a frame that is freed in a forked worker would wait for ever for threads that only its parent has.
    image = frame.to_ndarray(format="rgb24", threads=1)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    if max(abs(a), abs(d)) < max(abs(b), abs(c)):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
