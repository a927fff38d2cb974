"""The sound of a media file: one channel without holes, at the rate that is asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain

import av
import numpy as np

from .clip import Clip
from .streams import StreamReader, measure_duration, prepare_decoder

# From the slowest sensors to DSD; outside of it a resampler's filter is useless or takes gigabytes.
SLOWEST_RATE, FASTEST_RATE = 100, 3_000_000

# Timestamps that run ahead of the samples by more than this are a hole in the sound and become silence; less is the
# encoder's delay or rounded timestamps, which the official extraction ignores too.
LONGEST_UNFILLED_GAP_SECONDS = 0.1
# A time stamp that runs ahead further than this is damaged and no hole.
LONGEST_HOLE_SECONDS = 3600.0
# Samples behind the limit that its last one is interpolated with.
RESAMPLING_MARGIN_SECONDS = 0.1


def read_sound(
    clip: Clip,
    container: av.container.InputContainer,
    sampling_rate: int | None,
    limit: float,
    mix_channels: bool,
) -> None:
    """Reads the best sound of the file into `clip`, if there is one."""
    stream = container.streams.best("audio")
    if stream is None:
        return
    prepare_decoder(clip.path, stream)
    reader = StreamReader(container, stream, limit)
    pieces = list(_lasting(limit + RESAMPLING_MARGIN_SECONDS, one_channel(reader, mix_channels)))
    reader.close(clip, found=bool(pieces))
    if not pieces:
        rate = _checked_rate(stream.sample_rate)
        pieces = [(rate, None, np.zeros(round(limit * rate), np.float32))]
    measure_duration(clip, reader)
    # A damaged time stamp must not ask for hours of silence.
    blocks = without_holes(pieces, end=limit if limit < math.inf else clip.duration_seconds or 0.0)
    clip.source_sampling_rate = pieces[0][0]
    clip.sampling_rate = sampling_rate or clip.source_sampling_rate
    waveform = np.concatenate(list(blocks))
    if limit < math.inf:
        waveform = waveform[: round((limit + RESAMPLING_MARGIN_SECONDS) * clip.source_sampling_rate)]
    clip.waveform = resample(waveform, clip.source_sampling_rate, clip.sampling_rate)
    if limit < math.inf:
        clip.waveform = clip.waveform[: round(limit * clip.sampling_rate)]
    if len(clip.waveform) == 0:
        clip.waveform = clip.sampling_rate = clip.source_sampling_rate = None


def _checked_rate(rate: int) -> int:
    if not SLOWEST_RATE <= rate <= FASTEST_RATE:
        raise ValueError(f"{rate} samples per second, expected {SLOWEST_RATE} to {FASTEST_RATE:,}")
    return rate


def _lasting(
    seconds: float, pieces: Iterable[tuple[int, Fraction | None, np.ndarray]]
) -> Iterator[tuple[int, Fraction | None, np.ndarray]]:
    """No more pieces than last so long: the time stamps of a damaged file may stand still."""
    for rate, time, samples in pieces:
        yield rate, time, samples
        seconds -= len(samples) / rate
        if seconds <= 0:
            return


def one_channel(reader: StreamReader, mix_channels: bool) -> Iterator[tuple[int, Fraction | None, np.ndarray]]:
    """Frame by frame the stream's sampling rate, the time and float32 samples of the first channel or the mean."""
    rate = form = resampler = None
    for frame in reader.frames():
        # A broadcast may change its format on the way; the rate stays that of the first frame.
        if form != (frame.format.name, frame.layout.name, frame.sample_rate):
            rate = rate or frame.sample_rate
            _checked_rate(frame.sample_rate)
            form = (frame.format.name, frame.layout.name, frame.sample_rate)
            resampler = av.AudioResampler(format="flt", rate=rate)
        time = reader.seconds(frame.pts)
        # Of eight planes and more PyAV takes what lies behind the last one for another and crashes: they are packed.
        as_it_is = frame.format.name == "fltp" and frame.sample_rate == rate and frame.layout.nb_channels < 8
        parts = [frame] if as_it_is else resampler.resample(frame)
        channels = [_channels(part) for part in parts if part.samples]
        chosen = [samples.mean(0) if mix_channels else samples[0] for samples in channels]
        yield from ((rate, time, reader.plausible(samples)) for samples in chosen)


def _channels(frame: av.AudioFrame) -> np.ndarray:
    """Float32 samples of planar or packed sound, `(channels, samples)`."""
    values = frame.to_ndarray()
    return values if frame.format.is_planar else values.reshape(frame.samples, -1).T


def without_holes(pieces: Iterable[tuple[int, Fraction | None, np.ndarray]], end: float) -> Iterator[np.ndarray]:
    """The samples of all pieces; a hole between them, or before the first, becomes silence but not beyond `end`."""
    length = 0
    for rate, time, samples in pieces:
        longest = LONGEST_UNFILLED_GAP_SECONDS * rate
        # the exact length only where there may be a hole: fractions take longer than decoding the piece
        if time is not None and float(time) * rate - length > longest - 2:
            ahead = round(min(time, end) * rate) - length
            if longest < ahead <= LONGEST_HOLE_SECONDS * rate:
                yield np.zeros(ahead, np.float32)
                length += ahead
        yield samples
        length += len(samples)


def resample(waveform: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """A mono waveform `(samples,)`, float32, brought from one rate in hertz to another by FFmpeg."""
    if source_rate == target_rate:
        return waveform
    # of a sound shorter than a sample at the target rate nothing may be left
    return np.concatenate([np.zeros(0, np.float32), *resampled([waveform], source_rate, target_rate)])


def resampled(blocks: Iterable[np.ndarray], source_rate: int, target_rate: int) -> Iterator[np.ndarray]:
    """Blocks of one mono waveform at another rate."""
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=target_rate)
    for block in chain(blocks, [None]):
        frame = None
        if block is not None:
            frame = av.AudioFrame.from_ndarray(block[None], format="fltp", layout="mono")
            frame.sample_rate = source_rate
        yield from (part.to_ndarray()[0] for part in resampler.resample(frame))
