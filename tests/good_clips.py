"""Small media files of many kinds that are as they should be."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

RATE = 16000
SECONDS = 0.5
FRAMES_PER_SECOND = 12
LAYOUTS = ("mono", "stereo", "2.1", "4.0", "5.0", "5.1", "6.1", "7.1")

# name: format and options of the container, codec of the pictures and their format, codec of the sound
KINDS = {
    "index_last.mp4": ("mp4", {}, "libx264", "yuv420p", "aac"),
    "index_first.mp4": ("mp4", {"movflags": "faststart"}, "libx264", "yuv420p", "aac"),
    "fragments.mp4": ("mp4", {"movflags": "frag_keyframe+empty_moov"}, "libx264", "yuv420p", "aac"),
    "clip.mov": ("mov", {}, "mjpeg", "yuvj420p", "pcm_s16le"),
    "clip.mkv": ("matroska", {}, "mpeg4", "yuv420p", "flac"),
    "clip.webm": ("webm", {}, "libvpx", "yuv420p", "libopus"),
    "clip.avi": ("avi", {}, "mpeg4", "yuv420p", "libmp3lame"),
    "clip.ts": ("mpegts", {}, "mpeg2video", "yuv420p", "mp2"),
    "clip.flv": ("flv", {}, "flv1", "yuv420p", "aac"),
    "clip.ogg": ("ogg", {}, None, None, "libopus"),
    "clip.wav": ("wav", {}, None, None, "pcm_s16le"),
    "clip.flac": ("flac", {}, None, None, "flac"),
    "clip.mp3": ("mp3", {}, None, None, "libmp3lame"),
}


def write_all(folder: Path) -> list[Path]:
    """One file of every kind, about half a second long."""
    paths = []
    for name, (container, options, picture_codec, pixels, sound_codec) in KINDS.items():
        paths.append(folder / name)
        rate = 48000 if sound_codec == "libopus" else RATE
        write(paths[-1], container, options, picture_codec, pixels, sound_codec, rate=rate)
    return paths


def write(
    path: Path,
    container: str,
    options: dict[str, str],
    picture_codec: str | None,
    pixels: str | None,
    sound_codec: str | None,
    *,
    size: tuple[int, int] = (32, 24),
    frames: int = 6,
    rate: int = RATE,
    layout: str = "mono",
    times_ms: Sequence[int] | None = None,
    cover: bool = False,
) -> Path:
    """A clip of moving noise and a tone; `size` is width and height."""
    with av.open(str(path), "w", format=container, options=options) as file:
        pictures = None if picture_codec is None else _picture_stream(file, picture_codec, pixels, size)
        sound = None if sound_codec is None else file.add_stream(sound_codec, rate=rate, layout=layout)
        if cover:
            pictures.disposition = Disposition.attached_pic
        if pictures is not None:
            _write_pictures(file, pictures, frames, times_ms)
        if sound is not None:
            _write_sound(file, sound, rate, layout)
    return path


def _picture_stream(file, codec: str, pixels: str, size: tuple[int, int]) -> av.VideoStream:
    stream = file.add_stream(codec, rate=FRAMES_PER_SECOND)
    stream.width, stream.height, stream.pix_fmt = *size, pixels
    stream.codec_context.thread_count = 1
    stream.time_base = stream.codec_context.time_base = Fraction(1, 1000 if codec == "ffv1" else FRAMES_PER_SECOND)
    return stream


def _write_pictures(file, stream: av.VideoStream, frames: int, times_ms: Sequence[int] | None) -> None:
    random = np.random.default_rng(0)
    # a small patch, repeated: also of 4096 x 2160 pixels there is little to encode
    patch = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    rows, columns = -(-stream.height // 24), -(-stream.width // 32)
    for index in range(frames):
        image = np.tile(np.roll(patch, index, axis=1), (rows, columns, 1))[: stream.height, : stream.width]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame = frame.reformat(format=stream.pix_fmt, threads=1)
        frame.pts, frame.time_base = index, Fraction(1, FRAMES_PER_SECOND)
        if times_ms is not None:
            frame.pts, frame.time_base = times_ms[index], Fraction(1, 1000)
        file.mux(stream.encode(frame))
    file.mux(stream.encode(None))


def _write_sound(file, stream: av.AudioStream, rate: int, layout: str) -> None:
    channels = av.AudioLayout(layout).nb_channels
    tones = [
        0.3 * np.sin(np.arange(round(SECONDS * rate)) * 2 * np.pi * 200 * (1 + i) / rate) for i in range(channels)
    ]
    packed = np.stack(tones, axis=1).astype(np.float32).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
    file.mux(stream.encode(frame))
    file.mux(stream.encode(None))


def wav(rate: int, channels: int, data: bytes, *, tag: int = 1, bits: int = 16, claimed: int | None = None) -> bytes:
    """A wav file whose header may say anything; `tag` 3 is floating point, `claimed` another length of the data."""
    align = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * align & 0xFFFFFFFF, align & 0xFFFF, bits)
    size = len(data) if claimed is None else claimed
    riff = struct.pack("<I", min(36 + size, 0xFFFFFFFF))
    return b"RIFF" + riff + b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size) + data
