"""Reads sound and pictures from one media file and writes small mp4 clips (PyAV; no system packages needed)."""

from __future__ import annotations

import math
import os
import stat
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.stream import Disposition
from PIL import Image, ImageOps

PathLike = str | os.PathLike

# What PyAV raises for a file it cannot read: FFmpeg's own codes, its checks of arguments and states (ValueError, of
# which UnicodeDecodeError is one, and RuntimeError), the file system, a premature end. FFmpeg's out-of-memory code,
# typical of an absurd size in a header, is an FFmpegError; Python's own MemoryError is the machine's and passes.
READ_ERRORS = (av.error.FFmpegError, ValueError, RuntimeError, OSError, EOFError)
# What Pillow raises for a picture it cannot read.
PICTURE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)

# FFmpeg's names of the containers that are read. Playlists, scripts and session descriptions are not among them: they
# make FFmpeg open whatever other files, pipes and addresses they name, also when they call themselves clip.mp4.
CONTAINERS = (
    "mov,matroska,avi,flv,asf,mpeg,mpegts,mpegvideo,m4v,h264,hevc,obu,ivf,mjpeg,dv,mxf,nut,rm,wtv,yuv4mpegpipe,"
    "ogg,wav,w64,flac,mp3,aac,ac3,eac3,dts,truehd,aiff,au,caf,amr,ape,wv,tta,gif,apng,"
    "jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,tiff_pipe"
)
# Of pictures by Pillow, which would start a PostScript interpreter for an EPS file.
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

# 8K. A damaged header may state any size, and room for it is made before the first pixel is read.
MOST_PIXELS = 8192 * 4320
# In an mp4 file, the boxes that count samples, and where behind the start of its name each has the count.
SAMPLE_COUNTS = {b"stsz": 12, b"stz2": 12, b"trun": 8}
# From the slowest sensors to DSD; outside of it a resampler's filter is useless or takes gigabytes.
SLOWEST_RATE, FASTEST_RATE = 100, 3_000_000
# Floating-point samples may be anything; 60 dB over full scale was never recorded.
LOUDEST_SAMPLE = 1e3

# Timestamps that run ahead of the samples by more than this are a hole in the sound and become silence; less is the
# encoder's delay or rounded timestamps, which the official extraction ignores too.
LONGEST_UNFILLED_GAP_SECONDS = 0.1
# A time stamp that runs ahead further than this is damaged and no hole.
LONGEST_HOLE_SECONDS = 3600.0
# Samples behind the limit that its last one is interpolated with.
RESAMPLING_MARGIN_SECONDS = 0.1

# Matroska rounds times to milliseconds: a frame this little after a wanted time is the frame that was meant.
TIME_ROUNDING_SECONDS = Fraction(1, 2000)

# Constant quality close to the original; small pictures stay small files.
CONSTANT_RATE_FACTOR = 18
AAC_BIT_RATE = 128_000


class MediaError(ValueError):
    """A media file that cannot be read.

    Args:
        path (`str` or `os.PathLike`): The file.
        reason (`str`): What is wrong with it.
    """

    def __init__(self, path: PathLike, reason: str) -> None:
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple:
        # Exceptions are otherwise rebuilt from their message alone, which fails on the way back from a worker process.
        return type(self), (self.path, self.reason)


class MediaNotFoundError(MediaError):
    """A media file that is not there, or no longer."""


@dataclass(frozen=True)
class EmbeddedMedia:
    """A media file that is held in memory.

    Args:
        name (`str`): For messages.
        content (`bytes`): All of it.
    """

    name: str
    content: bytes


@dataclass
class Clip:
    """What was read from one media file. A stream that the file does not have is `None`.

    Args:
        path (`Path`): The file.
        waveform (`np.ndarray` of shape `(samples,)`, float32, *optional*): The first channel of the sound, or
            the mean of all.
        sampling_rate (`int`, *optional*): Samples per second of `waveform`.
        source_sampling_rate (`int`, *optional*): Samples per second in the file; differs if the sound was resampled.
        frames (`np.ndarray` of shape `(N, height, width, 3)`, uint8 RGB, *optional*): The chosen frames, upright.
        frame_times_seconds (`np.ndarray` of shape `(N,)`, float64, *optional*): When each of `frames` comes on screen,
            counted from the start of the file.
        duration_seconds (`float`, *optional*): As the header states it, or as measured where the header is silent and
            the file was read to its end; `None` if neither is known.
        decode_errors (`int`): Pieces that could not be decoded and were left out, as a player does, or that held
            samples which are no sound (not a number, or 60 dB over full scale) and were silenced.
    """

    path: Path
    waveform: np.ndarray | None = None
    sampling_rate: int | None = None
    source_sampling_rate: int | None = None
    frames: np.ndarray | None = None
    frame_times_seconds: np.ndarray | None = None
    duration_seconds: float | None = None
    decode_errors: int = 0


def read_clip(
    path: PathLike | EmbeddedMedia,
    *,
    sampling_rate: int | None = 16000,
    num_frames: int = 10,
    frame_times_seconds: Sequence[float] | None = None,
    max_seconds: float | None = 10.0,
    read_audio: bool = True,
    read_video: bool = True,
    mix_channels: bool = False,
) -> Clip:
    """Reads the best sound and the best picture stream of a media file, no further than `max_seconds`.

    The sound is the **first channel**, as in the official CAV-MAE extraction (`src/preprocess/extract_audio.py`:
    ffmpeg to 16 kHz, then sox `remix 1`), without that extraction's rounding to 16 bits; holes in it are silence. The
    frames are those on screen at `i * D / num_frames`, `D` being the length of the picture within `max_seconds`. At a
    constant frame rate that is frame `int(i * N / num_frames)` with `N = min(frame count, 10 * rate)`, the index of
    `src/preprocess/extract_video_frame.py`, and it stays right at a variable one. Asked for more frames than there
    are, frames repeat. Cover art is not a picture stream.

    Args:
        path (`str`, `os.PathLike` or [`EmbeddedMedia`]): mp4, webm, mkv, avi, wav or any other of `CONTAINERS`.
        sampling_rate (`int`, *optional*, defaults to 16000): Samples per second to resample to; `None` keeps the
            file's own. The result states both.
        num_frames (`int`, *optional*, defaults to 10): Number of evenly spaced frames.
        frame_times_seconds (sequence of `float`, *optional*): Take the frames on screen at these times instead, in any
            order, within `max_seconds`; after the end the last frame stays on screen.
        max_seconds (`float`, *optional*, defaults to 10.0): Where to stop reading; `None` reads to the end.
        read_audio (`bool`, *optional*, defaults to `True`): Whether to read the sound.
        read_video (`bool`, *optional*, defaults to `True`): Whether to read the frames.
        mix_channels (`bool`, *optional*, defaults to `False`): Take the mean of all channels, as the official VGGish
            and AVSBench code does, instead of the first.

    Returns:
        [`Clip`]: `waveform` or `frames` is `None` where the file has no such stream, or not one sample of it at
            `sampling_rate`.

    Raises:
        [`MediaError`]: The file is missing ([`MediaNotFoundError`]) or broken, of no container that is read here,
            nothing of a stream that it declares can be decoded, or its pictures have more than 8192 x 4320 pixels.
        `ValueError`: An argument is out of range.
    """
    _check_arguments(sampling_rate, num_frames, frame_times_seconds, max_seconds)
    medium = path if isinstance(path, EmbeddedMedia) else Path(path)
    path = _checked(medium)
    clip = Clip(path)
    limit = math.inf if max_seconds is None else max_seconds
    try:
        with _open(medium) as container:
            clip.duration_seconds = _header_duration(container, path)
            if read_audio:
                _read_sound(clip, container, sampling_rate, limit, mix_channels)
        if read_video:
            _read_pictures(clip, medium, num_frames, frame_times_seconds, limit)
    except MediaError:
        raise
    except READ_ERRORS as error:
        raise as_media_error(path, error) from error
    return clip


def read_image(path: PathLike | EmbeddedMedia) -> np.ndarray:
    """Reads a picture as uint8 RGB of shape `(height, width, 3)`, turned upright by its EXIF orientation.

    Raises:
        [`MediaError`]: The file is missing ([`MediaNotFoundError`]) or none of `PICTURE_FORMATS`.
    """
    medium = path if isinstance(path, EmbeddedMedia) else Path(path)
    path = _checked(medium)
    try:
        file = BytesIO(medium.content) if isinstance(medium, EmbeddedMedia) else path
        with Image.open(file, formats=PICTURE_FORMATS) as image:
            _check_size(path, *image.size)
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except MediaError:
        raise
    except PICTURE_ERRORS as error:
        raise MediaError(path, f"is not a readable picture ({type(error).__name__}: {error})") from error


def write_clip(
    path: PathLike,
    frames: np.ndarray | None,
    frames_per_second: float,
    waveform: np.ndarray | None = None,
    sampling_rate: int = 16000,
) -> None:
    """Writes an mp4 file with H.264 pictures (4:2:0) and AAC sound; the same input gives the same bytes.

    The file appears under its name only when it is complete.

    Args:
        path (`str` or `os.PathLike`): The file to write; its folder must exist.
        frames (`np.ndarray` of shape `(N, height, width, 3)`, uint8 RGB, *optional*): Height and width must be even.
        frames_per_second (`float`): Frame rate.
        waveform (`np.ndarray` of shape `(samples,)`, float32 in [-1, 1], *optional*): Mono sound.
        sampling_rate (`int`, *optional*, defaults to 16000): Samples per second of `waveform`, one that AAC knows.

    Raises:
        `ValueError`: Shapes, types or rates that cannot be written, or neither frames nor sound.
    """
    _check_writable(frames, frames_per_second, waveform, sampling_rate)
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
        unfinished = os.path.join(folder, "clip.mp4")
        with av.open(unfinished, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            _encode(container, frames, frames_per_second, waveform, sampling_rate)
        os.replace(unfinished, path)


def _check_arguments(
    sampling_rate: int | None, num_frames: int, times: Sequence[float] | None, max_seconds: float | None
) -> None:
    if sampling_rate is not None and sampling_rate <= 0:
        raise ValueError(f"sampling_rate must be positive, or None for the file's own, got {sampling_rate}")
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}; for no frames set read_video=False")
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"max_seconds must be positive, or None to read to the end, got {max_seconds}")
    if times is None:
        return
    limit = math.inf if max_seconds is None else max_seconds
    if len(times) == 0 or not all(0 <= time <= limit and math.isfinite(time) for time in times):
        raise ValueError(
            f"frame_times_seconds must be times between 0 and max_seconds = {max_seconds}, got {list(times)}; "
            "raise max_seconds for later ones, set read_video=False for none"
        )


def _checked(medium: Path | EmbeddedMedia) -> Path:
    """The file, or the name of one in memory, if there is something in it that may be handed to a reader."""
    if isinstance(medium, EmbeddedMedia):
        path, size = Path(medium.name), len(medium.content)
    else:
        path, size = medium, _size_of_file(medium)
    if size == 0:
        raise MediaError(path, "is empty (0 bytes)")
    try:
        with BytesIO(medium.content) if isinstance(medium, EmbeddedMedia) else path.open("rb") as file:
            _check_index(path, file, size)
    except OSError as error:
        raise as_media_error(path, error) from error
    return path


def _size_of_file(path: Path) -> int:
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # a name may be too long, hold a zero or lead in a circle
        raise as_media_error(path, error) from error
    # a pipe would never end
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(path, "is not a file")
    return status.st_size


def _check_index(path: Path, file: BinaryIO, size: int) -> None:
    """
    Refuses an mp4 file that counts more samples than it has bytes: FFmpeg makes room for all of them before it reads
    one, gigabytes for a file of a few kilobytes.
    """
    for start, end in _boxes_but_media(file, size):
        file.seek(start)
        content = file.read(end - start)
        if b"cmov" in content:
            raise MediaError(path, "has a compressed index, which is not read")
        for name, offset in SAMPLE_COUNTS.items():
            place = content.find(name)
            while place >= 0:
                count = int.from_bytes(content[place + offset : place + offset + 4])
                if count > size:
                    raise MediaError(path, f"counts {count:,} samples in {size:,} bytes; its index is damaged")
                place = content.find(name, place + 4)


def _boxes_but_media(file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Start and end of the outermost boxes of an mp4 file, without those that hold the media; none of other files."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        head = file.read(16)
        length, name = int.from_bytes(head[:4]), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:])
        end = start + length if length else size
        if length in range(1, 8) or not all(32 <= letter < 127 for letter in name):
            return
        if name != b"mdat":
            yield start, min(end, size)
        start = end


def as_media_error(path: Path, error: Exception) -> MediaError:
    """What reading a file has raised, as the error that says so."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return MediaNotFoundError(path, "does not exist")
    return MediaError(path, f"cannot be read ({type(error).__name__}: {error})")


def _open(medium: Path | EmbeddedMedia) -> av.container.InputContainer:
    # The "file:" prefix keeps FFmpeg from taking a name such as "concat:..." or "12:30.mp4" for a protocol.
    file = BytesIO(medium.content) if isinstance(medium, EmbeddedMedia) else f"file:{medium}"
    try:
        # Old taggers wrote titles in the local code page; PyAV would refuse the whole file for them.
        return av.open(file, metadata_errors="ignore", options={"format_whitelist": CONTAINERS})
    except av.error.ArgumentError as error:
        path = Path(medium.name) if isinstance(medium, EmbeddedMedia) else medium
        reason = "is in no container that is read here, or damaged; playlists and scripts are not followed"
        raise MediaError(path, reason) from error


def _header_duration(container: av.container.InputContainer, path: Path) -> float | None:
    if not container.streams:
        raise MediaError(path, "holds no streams")
    return None if container.duration is None or container.duration < 0 else container.duration / av.time_base


def _best_picture_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    best = container.streams.best("video")
    return best if best in pictures else next(iter(pictures), None)


def _demuxed(container: av.container.InputContainer, *streams: av.stream.Stream) -> Iterator[av.Packet]:
    # Of streams that only appear on the way, as in MPEG-TS, PyAV knows nothing: it ends with an error behind the last
    # packet.
    with suppress(IndexError):
        yield from container.demux(*streams)


class _StreamReader:
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
        packets = _demuxed(self.container, self.stream)
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
        timestamp = _presentation_ticks(packet)
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


def _presentation_ticks(packet: av.Packet) -> int | None:
    return packet.dts if packet.pts is None else packet.pts


def _prepare_decoder(path: Path, stream: av.stream.Stream) -> None:
    """Refuses a stream that cannot be decoded, or only with an absurd amount of memory."""
    context = stream.codec_context
    if context is None:
        raise MediaError(path, f"its {stream.type} stream has a codec that this FFmpeg build cannot decode")
    if stream.type == "video":
        _check_size(path, context.width, context.height)
        # the header may be silent, and a stream may change its size
        context.options = {"max_pixels": str(MOST_PIXELS)}


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise MediaError(path, f"states {width} x {height} pixels, more than the {MOST_PIXELS:,} of 8K")


def _read_sound(
    clip: Clip,
    container: av.container.InputContainer,
    sampling_rate: int | None,
    limit: float,
    mix_channels: bool,
) -> None:
    stream = container.streams.best("audio")
    if stream is None:
        return
    _prepare_decoder(clip.path, stream)
    reader = _StreamReader(container, stream, limit)
    pieces = list(_lasting(limit + RESAMPLING_MARGIN_SECONDS, _one_channel(reader, mix_channels)))
    reader.close(clip, found=bool(pieces))
    if not pieces:
        rate = _checked_rate(stream.sample_rate)
        pieces = [(rate, None, np.zeros(round(limit * rate), np.float32))]
    _measure_duration(clip, reader)
    # A damaged time stamp must not ask for hours of silence.
    blocks = _without_holes(pieces, end=limit if limit < math.inf else clip.duration_seconds or 0.0)
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


def _one_channel(reader: _StreamReader, mix_channels: bool) -> Iterator[tuple[int, Fraction | None, np.ndarray]]:
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


def _without_holes(pieces: Iterable[tuple[int, Fraction | None, np.ndarray]], end: float) -> Iterator[np.ndarray]:
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
    return np.concatenate([np.zeros(0, np.float32), *_resampled([waveform], source_rate, target_rate)])


def _resampled(blocks: Iterable[np.ndarray], source_rate: int, target_rate: int) -> Iterator[np.ndarray]:
    """Blocks of one mono waveform at another rate."""
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=target_rate)
    for block in chain(blocks, [None]):
        frame = None
        if block is not None:
            frame = av.AudioFrame.from_ndarray(block[None], format="fltp", layout="mono")
            frame.sample_rate = source_rate
        yield from (part.to_ndarray()[0] for part in resampler.resample(frame))


def _measure_duration(clip: Clip, reader: _StreamReader) -> None:
    """Where the header states no duration, the end of a stream that was read whole does."""
    if clip.duration_seconds is None and reader.reached_end and reader.end is not None:
        clip.duration_seconds = float(reader.end)


def _read_pictures(
    clip: Clip, medium: Path | EmbeddedMedia, num_frames: int, times: Sequence[float] | None, limit: float
) -> None:
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
    with _open(medium) as container:
        stream = _best_picture_stream(container)
        _prepare_decoder(clip.path, stream)
        reader = _StreamReader(container, stream, limit)
        reader.wanted_ticks = wanted_ticks
        count = 0
        for place, (time, image) in zip(order, _on_screen(reader, wanted), strict=False):
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

    reader: _StreamReader
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
    with _open(medium) as container:
        stream = _best_picture_stream(container)
        if stream is None:
            return None
        _prepare_decoder(clip.path, stream)
        reader = _StreamReader(container, stream, limit)
        can_skip = stream.codec_context.name == "h264"
        shown = []
        for packet in reader.packets():
            start = _presentation_ticks(packet)
            if not packet.is_discard and start is not None and start < reader.limit_ticks:
                shown.append((start, packet.duration or 0))
            can_skip &= packet.pts is not None
    _measure_duration(clip, reader)
    shown.sort()
    last_duration = shown[-1][1] if shown else 0
    return _ShownPackets(reader, [start for start, _ in shown], last_duration, can_skip and bool(shown))


def _picture_span(shown: _ShownPackets, limit: float) -> tuple[Fraction, Fraction]:
    """When the first picture comes and the last one goes."""
    if not shown.ticks:
        return Fraction(0), Fraction(0)
    start, last = (shown.reader.seconds(shown.ticks[place]) for place in (0, -1))
    duration = shown.last_duration * shown.reader.time_base
    end = last + (duration or (last - start) / max(len(shown.ticks) - 1, 1))
    return start, end if limit == math.inf else min(end, Fraction(limit))


def _on_screen(reader: _StreamReader, wanted: Iterable[Fraction]) -> Iterator[tuple[Fraction, np.ndarray]]:
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


def _timed_frames(reader: _StreamReader) -> Iterator[tuple[Fraction, av.VideoFrame]]:
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


def _check_writable(
    frames: np.ndarray | None, frames_per_second: float, waveform: np.ndarray | None, sampling_rate: int
) -> None:
    if frames is None and waveform is None:
        raise ValueError("nothing to write: give frames, a waveform, or both")
    if frames is not None:
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
            raise ValueError(f"frames must be uint8 of shape (N, height, width, 3), got {frames.dtype} {frames.shape}")
        if frames.shape[1] % 2 or frames.shape[2] % 2:
            raise ValueError(
                f"H.264 at 4:2:0 needs an even height and width, got {frames.shape[1]} x {frames.shape[2]}; "
                "crop or pad the frames by one row or column"
            )
        if not frames_per_second > 0:
            raise ValueError(f"frames_per_second must be positive, got {frames_per_second}")
    if waveform is not None:
        if waveform.ndim != 1 or waveform.dtype != np.float32 or len(waveform) == 0:
            raise ValueError(f"waveform must be float32 of shape (samples,), got {waveform.dtype} {waveform.shape}")
        if not np.isfinite(waveform).all():
            raise ValueError("waveform holds infinite or undefined samples")
        rates = av.codec.Codec("aac", "w").audio_rates
        if sampling_rate not in rates:
            raise ValueError(f"AAC has no sampling rate {sampling_rate}; resample to one of {sorted(rates)}")


def _encode(
    container: av.container.OutputContainer,
    frames: np.ndarray | None,
    frames_per_second: float,
    waveform: np.ndarray | None,
    sampling_rate: int,
) -> None:
    # All streams must be known before the first packet is written.
    pictures = None if frames is None else _picture_stream(container, frames, frames_per_second)
    sound = None
    if waveform is not None:
        # The fast coder takes a sixth of the time and keeps the spectrum closer than the default one.
        options = {"aac_coder": "fast"}
        sound = container.add_stream("aac", rate=sampling_rate, options=options, layout="mono", bit_rate=AAC_BIT_RATE)
    if pictures is not None:
        for image in frames:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p", threads=1)
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode(None))
    if sound is not None:
        frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        # Stated times let the muxer note the encoder's 1024 samples of run-up, so that readers drop them.
        frame.sample_rate, frame.time_base, frame.pts = sampling_rate, Fraction(1, sampling_rate), 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


def _picture_stream(
    container: av.container.OutputContainer, frames: np.ndarray, frames_per_second: float
) -> av.VideoStream:
    stream = container.add_stream("libx264", rate=Fraction(frames_per_second).limit_denominator(1001))
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = "yuv420p"
    # With macroblock tree x264 now and then writes other bytes for the same frames.
    stream.options = {"crf": str(CONSTANT_RATE_FACTOR), "preset": "veryfast", "x264-params": "mbtree=0"}
    # The number of threads changes the bytes that x264 writes.
    stream.codec_context.thread_count = 1
    return stream
