"""Packets and decoded frames of one stream of a media file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from .clip import Clip, MediaError
from .containers import READ_ERRORS

# 8K. A damaged header may state any size, and room for it is made before the first pixel is read.
MOST_PIXELS = 8192 * 4320
# Floating-point samples may be anything; 60 dB over full scale was never recorded.
LOUDEST_SAMPLE = 1e3


class StreamReader:
    """Packets and decoded frames of one stream up to `limit` seconds; counts what cannot be decoded.

    Packets are compared in ticks of the stream: exact, and a fraction of seconds for each would cost a tenth of
    decoding them.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.stream.Stream, limit: float) -> None:
        self.container, self.stream, self.limit = container, stream, limit
        self.time_base = stream.time_base
        self.origin = Fraction(container.start_time or 0, av.time_base)
        self.limit_ticks = math.inf if limit == math.inf else math.ceil(self.ticks(Fraction(limit)))
        self.num_packets = self.errors = 0
        self.end_ticks: int | None = None
        self.reached_end = False
        # presentation times of the frames that are wanted, where others need not be decoded for their own sake
        self.wanted_ticks: set[int] | None = None

    @property
    def end(self) -> Fraction | None:
        """Where the last of the packets so far ends, in seconds since the start of the file."""
        return self.seconds(self.end_ticks)

    def seconds(self, timestamp: int | None) -> Fraction | None:
        """A timestamp of the stream as seconds since the start of the file."""
        if timestamp is None:
            return None
        # timestamp * time_base - origin, in one step instead of two
        base, origin = self.time_base, self.origin
        numerator = timestamp * base.numerator * origin.denominator - origin.numerator * base.denominator
        return Fraction(numerator, base.denominator * origin.denominator)

    def ticks(self, seconds: Fraction) -> Fraction:
        """Seconds since the start of the file as a timestamp of the stream."""
        return (seconds + self.origin) / self.time_base

    def packets(self) -> Iterator[av.Packet]:
        packets = demuxed(self.container, self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                self.reached_end = True
                return
            except READ_ERRORS:
                self.errors += 1
                return
            if not packet.size:
                continue
            # Decoding order never runs behind presentation: from here on every frame is past the limit.
            timestamp = packet.pts if packet.dts is None else packet.dts
            if timestamp is not None and timestamp >= self.limit_ticks:
                return
            self._note(packet)
            yield packet

    def frames(self) -> Iterator[av.VideoFrame | av.AudioFrame]:
        for packet in self.packets():
            if self.wanted_ticks is not None:
                self.stream.codec_context.skip_frame = "DEFAULT" if packet.pts in self.wanted_ticks else "NONREF"
            yield from self._decode(packet)
        yield from self._decode(None)

    def plausible(self, samples: np.ndarray) -> np.ndarray:
        """Float32 samples with silence for what is no sound."""
        # a comparison with what is not a number is false
        if samples.size == 0 or (np.abs(samples) <= LOUDEST_SAMPLE).all():
            return samples
        self.errors += 1
        return np.where(np.abs(samples) <= LOUDEST_SAMPLE, samples, np.float32(0))

    def _note(self, packet: av.Packet) -> None:
        self.num_packets += 1
        timestamp = presentation_ticks(packet)
        if timestamp is not None:
            end = timestamp + (packet.duration or 0)
            self.end_ticks = end if self.end_ticks is None else max(self.end_ticks, end)

    def _decode(self, packet: av.Packet | None) -> list[av.VideoFrame | av.AudioFrame]:
        try:
            return self.stream.codec_context.decode(packet)
        except EOFError:
            return []
        except av.error.FFmpegError:
            self.errors += 1
            return []

    def close(self, clip: Clip, found: bool) -> None:
        """Adds what was met on the way to the clip; refuses a stream of which nothing could be decoded.

        A stream that only starts after the limit is not broken: it is silent and without a picture until then.
        """
        clip.decode_errors += self.errors
        if not found and (self.reached_end or self.errors):
            kind = "sound" if self.stream.type == "audio" else "picture"
            raise MediaError(
                clip.path,
                f"declares a {kind} stream ({self.stream.codec_context.name}) but nothing of it can be decoded: "
                f"{self.num_packets} packets, {self.errors} undecodable; the file is cut short or damaged",
            )


def demuxed(container: av.container.InputContainer, *streams: av.stream.Stream) -> Iterator[av.Packet]:
    """Packets of these streams until the file ends."""
    # Of streams that only appear on the way, as in MPEG-TS, PyAV knows nothing: it ends with an error behind the last
    # packet.
    with suppress(IndexError):
        yield from container.demux(*streams)


def presentation_ticks(packet: av.Packet) -> int | None:
    """When a packet is shown or heard, in ticks of its stream."""
    return packet.dts if packet.pts is None else packet.pts


def prepare_decoder(path: Path, stream: av.stream.Stream) -> None:
    """Refuses a stream that cannot be decoded, or only with an absurd amount of memory."""
    context = stream.codec_context
    if context is None:
        raise MediaError(path, f"its {stream.type} stream has a codec that this FFmpeg build cannot decode")
    if stream.type == "video":
        check_size(path, context.width, context.height)
        # the header may be silent, and a stream may change its size
        context.options = {"max_pixels": str(MOST_PIXELS)}


def check_size(path: Path, width: int, height: int) -> None:
    """Refuses pictures of more than `MOST_PIXELS`."""
    if width * height > MOST_PIXELS:
        raise MediaError(path, f"states {width} x {height} pixels, more than the {MOST_PIXELS:,} of 8K")


def measure_duration(clip: Clip, reader: StreamReader) -> None:
    """Where the header states no duration, the end of a stream that was read whole does."""
    if clip.duration_seconds is None and reader.reached_end and reader.end is not None:
        clip.duration_seconds = float(reader.end)
