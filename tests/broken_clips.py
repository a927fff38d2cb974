"""Hundreds of media files that are broken in known ways, made from small good ones."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from good_clips import LAYOUTS, wav, write, write_all

CUTS = 24
HOLES = 12
FLIPS = 8
# boxes of an mp4 file that hold others
NESTED_BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"dinf", b"moof", b"traf", b"mvex")
ODD_FIELDS = (0, 0x100000, 0x10000000, 0x7FFFFFFF, 0xFFFFFFFF)
ODD_DURATIONS = (0, 1, 36000 * 1000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
MATRICES = {
    "clockwise": (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30),
    "upside_down": (-65536, 0, 0, 0, -65536, 0, 0, 0, 1 << 30),
    "mirrored": (-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30),
    "by_30_degrees": (56756, 32768, 0, -32768, 56756, 0, 0, 0, 1 << 30),
    "zero": (0,) * 9,
    "largest": (0x7FFFFFFF,) * 9,
    "smallest": (-0x80000000,) * 9,
}
ANY, CLIP, ABSENT, ERROR = ("clip", "absent", "MediaError"), ("clip",), ("absent",), ("MediaError",)


@dataclass(frozen=True)
class Broken:
    """
    Args:
        fault: its class, for counting.
        path: what is read.
        allowed: kinds of `Outcome` that may come of it.
        said: what an error or a description must hold.
        call, options: of `IsolatedReader.read`.
    """

    fault: str
    path: Path
    allowed: tuple[str, ...] = ANY
    said: str = ""
    call: str = "read_clip"
    options: dict[str, Any] = field(default_factory=dict)


def broken_clips(folder: Path, largest: bool = True) -> Iterator[Broken]:
    """All of them, written below `folder`; with `largest` also those that take seconds or are thousands."""
    good = folder / "good"
    good.mkdir()
    clips = write_all(good)
    makers = [_truncated, _holed, _flipped, _durations, _counts, _rates, _channels, _samples, _sizes, _turned]
    makers += [_streams, _long, _names, _no_files, _references, _other_content, _windows]
    for make in makers:
        yield from make(_below(folder, make), clips)
    if largest:
        yield from _large(_below(folder, _large))
        yield from _fields(_below(folder, _fields), clips)


def _below(folder: Path, make: Callable) -> Path:
    (folder / make.__name__.strip("_")).mkdir()
    return folder / make.__name__.strip("_")


def boxes(content: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of every box of an mp4 file, the outer before the inner."""
    end = len(content) if end is None else end
    while start + 8 <= end:
        size, name = struct.unpack(">I4s", content[start : start + 8])
        if size < 8 or start + size > end:
            return
        yield name, start, start + size
        if name in NESTED_BOXES:
            yield from boxes(content, start + 8, start + size)
        start += size


def _by_name(clips: list[Path], *endings: str) -> list[Path]:
    return [clip for clip in clips if clip.name.endswith(endings)]


def _save(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def _truncated(folder: Path, clips: list[Path]) -> Iterator[Broken]:
    for clip in clips:
        content = clip.read_bytes()
        cuts = {len(content) * k // CUTS for k in range(1, CUTS)}
        if clip.suffix in (".mp4", ".mov"):
            cuts = {place for _, start, end in boxes(content) for place in (start, start + 4, start + 8, end - 1, end)}
        for cut in sorted(cuts - {0, len(content)}):
            yield Broken("cut short", _save(folder, f"{cut}_{clip.name}", content[:cut]))


def _holed(folder: Path, clips: list[Path]) -> Iterator[Broken]:
    for clip in clips:
        content = clip.read_bytes()
        span = len(content) // HOLES
        for place in range(0, len(content), span):
            holed = content[:place] + bytes(len(content[place : place + span])) + content[place + span :]
            yield Broken("zeros inside", _save(folder, f"{place}_{clip.name}", holed))


def _flipped(folder: Path, clips: list[Path]) -> Iterator[Broken]:
    random = np.random.default_rng(0)
    for clip in clips:
        for number in range(FLIPS):
            values = np.frombuffer(clip.read_bytes(), np.uint8).copy()
            # of one byte in a hundred to one in two
            share = 0.01 * 50 ** (number / (FLIPS - 1))
            values[random.random(len(values)) < share] ^= 0xFF
            yield Broken("flipped bytes", _save(folder, f"{number}_{clip.name}", values.tobytes()))


def _durations(folder: Path, clips: list[Path]) -> Iterator[Broken]:
    # version and flags, two dates, then time scale and duration; a track header has its number and a gap instead
    fields = {b"mvhd": (20, 24), b"mdhd": (20, 24), b"tkhd": (28,)}
    for clip in _by_name(clips, ".mp4"):
        content = clip.read_bytes()
        for name, start, _ in boxes(content):
            for offset in fields.get(name, ()):
                for value in ODD_DURATIONS:
                    place = start + offset
                    changed = content[:place] + struct.pack(">I", value) + content[place + 4 :]
                    saved = _save(folder, f"{name.decode()}{start}_{offset}_{value}_{clip.name}", changed)
                    yield Broken("stated durations", saved)
    for clip in _by_name(clips, ".mkv", ".webm"):
        content = clip.read_bytes()
        # element 0x4489, Duration, eight bytes long
        place = content.index(b"\x44\x89\x88") + 3
        for value in (0.0, -1.0, 1e15, 1e300, float("inf"), float("nan")):
            changed = content[:place] + struct.pack(">d", value) + content[place + 8 :]
            yield Broken("stated durations", _save(folder, f"{value}_{clip.name}", changed))


def _counts(folder: Path, clips: list[Path]) -> Iterator[Broken]:
    """Few bytes that state many samples: tables by run lengths, fragments, and all of it compressed."""
    content = _by_name(clips, "index_last.mp4")[0].read_bytes()
    for count in (10_000, 1_000_000, 20_000_000, 80_000_000):
        changed = bytearray(content)
        for name, start, _ in boxes(content):
            values = {b"stsz": (1, count), b"stts": (1, count, 1), b"stsc": (1, 1, count, 1)}.get(name, ())
            changed[start + 12 : start + 12 + 4 * len(values)] = struct.pack(f">{len(values)}I", *values)
        yield Broken(
            "stated counts", _save(folder, f"{count}.mp4", bytes(changed)), ERROR, f"counts {count:,} samples"
        )
    content = _by_name(clips, "fragments.mp4")[0].read_bytes()
    place = content.index(b"trun") + 8
    changed = content[:place] + struct.pack(">I", 80_000_000) + content[place + 4 :]
    yield Broken("stated counts", _save(folder, "fragments.mp4", changed), ERROR, "counts 80,000,000 samples")
    place = content.index(b"mvhd")
    changed = content[:place] + b"cmov" + content[place + 4 :]
    yield Broken("stated counts", _save(folder, "compressed.mp4", changed), ERROR, "compressed index")


def _fields(folder: Path, clips: list[Path]) -> Iterator[Broken]:
    """Every four bytes of an index, one after the other, as something else."""
    for clip, box in (("index_last.mp4", b"moov"), ("fragments.mp4", b"moof")):
        content = _by_name(clips, clip)[0].read_bytes()
        start, end = next((start, end) for name, start, end in boxes(content) if name == box)
        for place in range(start, end, 4):
            for value in ODD_FIELDS:
                changed = content[:place] + struct.pack(">I", value) + content[place + 4 :]
                yield Broken("every field of an index", _save(folder, clip, changed))


def _rates(folder: Path, clips: list[Path]) -> Iterator[Broken]:
    noise = np.random.default_rng(0).bytes(32000)
    for rate in (8000, 11025, 16000, 22050, 32000, 44100, 48000, 88200, 96000, 176400, 192000, 384000):
        yield Broken("sampling rates", _save(folder, f"{rate}.wav", wav(rate, 1, noise)), CLIP)
    for rate in (8000, 44100, 96000):
        yield Broken("sampling rates", write(folder / f"{rate}.m4a", "mp4", {}, None, None, "aac", rate=rate), CLIP)
    for rate in (1, 99, 3000001, 10**8, 0x7FFFFFFF):
        yield Broken("sampling rates", _save(folder, f"{rate}.wav", wav(rate, 1, noise)), ERROR, "samples per second")
    for rate in (0, 0x80000000, 0xFFFFFFFF):
        yield Broken("sampling rates", _save(folder, f"{rate}.wav", wav(rate, 1, noise)), ERROR)
    for clip in _by_name(clips, ".mp4"):
        content = clip.read_bytes()
        place = content.index(b"mp4a") + 4 + 24
        for rate in (0, 1, 4000, 48001, 0xFFFF):
            changed = content[:place] + struct.pack(">H", rate) + content[place + 2 :]
            yield Broken("sampling rates", _save(folder, f"{rate}_{clip.name}", changed))


def _channels(folder: Path, clips: list[Path]) -> Iterator[Broken]:
    del clips
    noise = np.random.default_rng(0).bytes(65536)
    for count in range(1, 9):
        for mix in (False, True):
            options = {"mix_channels": mix}
            saved = _save(folder, f"{count}.wav", wav(16000, count, noise))
            yield Broken("channels", saved, CLIP, f"{min(32768 // count, 160000)} samples", options=options)
    for layout in LAYOUTS:
        for ending, container, codec in (("m4a", "mp4", "aac"), ("flac", "flac", "flac")):
            path = folder / f"{layout}.{ending}"
            yield Broken("channels", write(path, container, {}, None, None, codec, layout=layout), CLIP)
    for count in (0, 9, 16, 24, 63, 64, 65, 255, 65535):
        yield Broken("channels", _save(folder, f"{count}.wav", wav(16000, count, noise)))


def _samples(folder: Path, clips: list[Path]) -> Iterator[Broken]:
    """Floating-point samples that are no sound, and sounds of hardly a sample."""
    del clips
    for name, value in (("nan", np.nan), ("infinite", np.inf), ("huge", 1e38), ("tiny", 1e-45)):
        for where in (slice(None), slice(100, 101)):
            values = np.full(16000, 0.1, np.float32)
            values[where] = value
            saved = _save(folder, f"{name}{where.start}.wav", wav(16000, 1, values.tobytes(), tag=3, bits=32))
            yield Broken("samples", saved, CLIP, "16000 samples")
    for rate in (8000, 16000, 48000, 192000):
        for count in (1, 2, 5):
            # at another rate not one may be left
            saved = _save(folder, f"{count}_at_{rate}.wav", wav(rate, 1, bytes(2 * count)))
            yield Broken("samples", saved, CLIP + ABSENT)


def _sizes(folder: Path, clips: list[Path]) -> Iterator[Broken]:
    del clips
    codecs = (("mp4", "mpeg4", "yuv420p"), ("webm", "libvpx", "yuv420p"), ("avi", "mjpeg", "yuvj420p"))
    codecs += (("mp4", "libx264", "yuv444p"),)
    for size in ((1, 1), (1, 2), (2, 1), (3, 5), (17, 31), (33, 1), (1, 97), (1000, 2), (2, 1000)):
        for container, codec, pixels in codecs:
            path = folder / f"{size[0]}x{size[1]}_{codec}.{container}"
            write(path, container, {}, codec, pixels, None, size=size, frames=2)
            yield Broken("picture sizes", path, CLIP, f"10 x {size[1]} x {size[0]},")
    for size in ((60000, 60000), (0x7FFFFFFF, 1), (0xFFFFFFFF, 0xFFFFFFFF), (0, 0), (9000, 9000)):
        head = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
        saved = _save(folder, f"{size[0]}.png", _png(head))
        yield Broken("picture sizes", saved, ERROR)
        yield Broken("picture sizes", saved, ERROR, call="read_image")


def _png(header: bytes) -> bytes:
    from zlib import compress, crc32

    parts = [(b"IHDR", header), (b"IDAT", compress(bytes(1000))), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc32(name + data)) for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _turned(folder: Path, clips: list[Path]) -> Iterator[Broken]:
    content = _by_name(clips, "index_last.mp4")[0].read_bytes()
    start = next(start for name, start, _ in boxes(content) if name == b"tkhd")
    for name, matrix in MATRICES.items():
        # size, name, version, two dates, track, gap, duration, gap, layer, group, volume, gap
        place = start + 48
        changed = content[:place] + struct.pack(">9i", *matrix) + content[place + 36 :]
        shape = "10 x 32 x 24," if name == "clockwise" else ""
        yield Broken("rotation", _save(folder, f"{name}.mp4", changed), CLIP if shape else ANY, shape)


def _streams(folder: Path, clips: list[Path]) -> Iterator[Broken]:
    """Missing streams, covers, uneven and impossible times, one stream that cannot be decoded beside a good one."""
    video = ("mpeg4", "yuv420p")
    mute = write(folder / "mute.mp4", "mp4", {}, *video, None)
    blind = write(folder / "blind.mp4", "mp4", {}, None, None, "aac")
    yield Broken("missing streams", mute, CLIP, "no sound, 10 x 24 x 32")
    yield Broken("missing streams", blind, CLIP, "no picture")
    yield Broken("missing streams", blind, ABSENT, options={"read_audio": False})
    yield Broken("missing streams", mute, ABSENT, options={"read_video": False})
    cover = write(folder / "cover.m4a", "mp4", {}, "mjpeg", "yuvj420p", "aac", frames=1, cover=True)
    yield Broken("cover as picture", cover, CLIP, "no picture")
    yield Broken("cover as picture", cover, ABSENT, "no sound, no picture", options={"read_audio": False})
    for name, times in (
        ("uneven", (0, 10, 500, 510, 2000, 9000)),
        ("crowded", (0, 1, 2, 3, 4, 5)),
        ("hours", (0, 1, 2, 3_600_000, 7_200_000, 36_000_000)),
        ("late", (600_000, 600_100, 600_200, 600_300, 600_400, 600_500)),
    ):
        path = folder / f"{name}.mkv"
        write(path, "matroska", {}, "ffv1", "yuv420p", None, times_ms=times)
        yield Broken("uneven times", path, CLIP, "10 x 24 x 32")
        yield Broken("uneven times", path, CLIP, "10 x 24 x 32", options={"max_seconds": None})
    for clip in _by_name(clips, ".mp4", ".mov"):
        content = clip.read_bytes()
        for box in (b"mp4a", b"avc1", b"hdlr", b"esds", b"avcC", b"stsd", b"soun", b"vide", b"sowt", b"jpeg"):
            if box in content:
                saved = _save(folder, f"{box.decode()}_{clip.name}", content.replace(box, b"xxxx"))
                yield Broken("undecodable stream", saved)
                yield Broken("undecodable stream", saved, options={"read_audio": False})
                yield Broken("undecodable stream", saved, options={"read_video": False})


def _long(folder: Path, clips: list[Path]) -> Iterator[Broken]:
    """Files that claim hours, and one that has them."""
    del clips
    noise = np.random.default_rng(0).bytes(32000)
    for claimed in (0x7FFFFFFF, 0xFFFFFFFF):
        saved = _save(folder, f"{claimed}.wav", wav(16000, 1, noise, claimed=claimed))
        yield Broken("hours claimed", saved, CLIP, "16000 samples")
        yield Broken("hours claimed", saved, CLIP, "16000 samples", options={"max_seconds": None})
    day = _save(folder, "day.wav", wav(16000, 1, b"", claimed=16000 * 2 * 3600 * 18))
    os.truncate(day, 16000 * 2 * 3600 * 18)
    yield Broken("hours of sound", day, CLIP, "160000 samples")
    yield Broken("hours of sound", day, CLIP, "32000 samples", options={"max_seconds": 2.0})


def _names(folder: Path, clips: list[Path]) -> Iterator[Broken]:
    content = _by_name(clips, "index_last.mp4")[0].read_bytes()
    names = [
        "-y.mp4",
        "--help.mp4",
        " a b .mp4",
        "äöü漢字🔔.mp4",
        "a%03d.mp4",
        "concat:a|b.mp4",
        "12:30.mp4",
        "a?b#c.mp4",
    ]
    names += ['it\'s "quoted".mp4', "a\nb.mp4", "*.mp4", "no ending", ".mp4", "x" * 251 + ".mp4", "pipe:0"]
    for name in names:
        yield Broken("names", _save(folder, name, content), CLIP, "10 x 24 x 32")
    latin = folder / os.fsdecode("café.mp4".encode("latin-1"))
    yield Broken("names", _save(folder, latin.name, content), CLIP, "10 x 24 x 32")
    yield Broken("names", folder / ("x" * 300), ERROR)
    yield Broken("names", folder / "a\0b.mp4", ERROR)


def _no_files(folder: Path, clips: list[Path]) -> Iterator[Broken]:
    (folder / "link.mp4").symlink_to(clips[0])
    yield Broken("no plain files", folder / "link.mp4", CLIP)
    (folder / "dangling.mp4").symlink_to(folder / "nowhere")
    (folder / "circle.mp4").symlink_to(folder / "circle.mp4")
    (folder / "folder.mp4").mkdir()
    (folder / "folder_link.mp4").symlink_to(folder / "folder.mp4")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "pipe_link.mp4").symlink_to(folder / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as listener:
        # the path of a socket must be short
        where = os.open(folder, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{where}/socket.mp4")
        os.close(where)
    for name in ("zero", "null", "full"):
        (folder / f"{name}.mp4").symlink_to(f"/dev/{name}")
    (folder / "empty.mp4").touch()
    for name in ("circle", "folder", "folder_link", "pipe", "pipe_link", "socket", "zero", "null", "full", "empty"):
        for call in ("read_clip", "read_image", "read_windows"):
            yield Broken("no plain files", folder / f"{name}.mp4", ERROR, call=call)
    for name in ("dangling.mp4", "missing.mp4", "empty.mp4/a.mp4"):
        yield Broken("no plain files", folder / name, ERROR, "does not exist")


def _references(folder: Path, clips: list[Path]) -> Iterator[Broken]:
    """Files that name others: FFmpeg would open them, and wait at a pipe for ever."""
    os.mkfifo(folder / "pipe")
    _save(folder, "other.mp4", clips[0].read_bytes())
    for other in ("other.mp4", "pipe"):
        scripts = {
            "concat": f"ffconcat version 1.0\nfile {other}\n",
            "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n",
            "dash": f'<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{other}</BaseURL></MPD>',
            "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
            "imf": f'<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016">{other}</CompositionPlaylist>',
            "ffmetadata": f";FFMETADATA1\ntitle={other}\n",
        }
        for kind, text in scripts.items():
            for ending in ("mp4", "m3u8", "mpd", "sdp", "txt"):
                saved = _save(folder, f"{kind}_{other}.{ending}", text.encode())
                yield Broken("files that name others", saved, ERROR)
                yield Broken("files that name others", saved, ERROR, call="read_bytes")


def _other_content(folder: Path, clips: list[Path]) -> Iterator[Broken]:
    del clips
    random = np.random.default_rng(0)
    contents = {
        "text": b"not a media file at all " * 100,
        "page": b"<!DOCTYPE html><html><body>403 Forbidden</body></html>" * 20,
        "zeros": bytes(5000),
        "ones": b"\xff" * 5000,
        "noise": random.bytes(50000),
        "one_byte": b"\0",
        "zip": b"PK\x03\x04" + random.bytes(500),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "subtitles": b"1\n00:00:00,000 --> 00:00:09,000\nhello\n",
        "table": b"split,label,video\ntrain,dog,a.mp4\n" * 50,
    }
    for name, content in contents.items():
        for ending in ("mp4", "wav", "mkv", "png", "jpg"):
            saved = _save(folder, f"{name}.{ending}", content)
            yield Broken("something else", saved, ERROR if name != "noise" else ANY)
            yield Broken("something else", saved, ERROR, call="read_image")


def _windows(folder: Path, clips: list[Path]) -> Iterator[Broken]:
    """The same files as a pipeline reads them, window by window."""
    for make in (_durations, _holed, _streams):
        for broken in make(_below(folder, make), clips):
            if not broken.options:
                yield Broken("window by window", broken.path, call="read_windows")


def _large(folder: Path) -> Iterator[Broken]:
    path = folder / "4096x2160.mp4"
    write(path, "mp4", {}, "mpeg4", "yuv420p", None, size=(4096, 2160), frames=2)
    yield Broken("picture sizes", path, CLIP, "10 x 2160 x 4096,")
    path = folder / "9000x8000.avi"
    write(path, "avi", {}, "mjpeg", "yuvj420p", None, size=(9000, 8000), frames=1)
    yield Broken("picture sizes", path, ERROR, "states 9000 x 8000 pixels")
    Image.new("1", (20000, 20000)).save(folder / "20000.png")
    yield Broken("picture sizes", folder / "20000.png", ERROR, call="read_image")
    yield Broken("picture sizes", folder / "20000.png", ERROR)
