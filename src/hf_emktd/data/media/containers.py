"""Opens a media file, after a look at what could make FFmpeg follow, wait or take all memory."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import av

from .clip import EmbeddedMedia, MediaError, MediaNotFoundError

# What PyAV raises for a file it cannot read: FFmpeg's own codes, its checks of arguments and states (ValueError, of
# which UnicodeDecodeError is one, and RuntimeError), the file system, a premature end. FFmpeg's out-of-memory code,
# typical of an absurd size in a header, is an FFmpegError; Python's own MemoryError is the machine's and passes.
READ_ERRORS = (av.error.FFmpegError, ValueError, RuntimeError, OSError, EOFError)

# FFmpeg's names of the containers that are read. Playlists, scripts and session descriptions are not among them: they
# make FFmpeg open whatever other files, pipes and addresses they name, also when they call themselves clip.mp4.
CONTAINERS = (
    "mov,matroska,avi,flv,asf,mpeg,mpegts,mpegvideo,m4v,h264,hevc,obu,ivf,mjpeg,dv,mxf,nut,rm,wtv,yuv4mpegpipe,"
    "ogg,wav,w64,flac,mp3,aac,ac3,eac3,dts,truehd,aiff,au,caf,amr,ape,wv,tta,gif,apng,"
    "jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,tiff_pipe"
)
# In an mp4 file, the boxes that count samples, and where behind the start of its name each has the count.
SAMPLE_COUNTS = {b"stsz": 12, b"stz2": 12, b"trun": 8}


def checked_path(medium: Path | EmbeddedMedia) -> Path:
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


def open_container(medium: Path | EmbeddedMedia) -> av.container.InputContainer:
    """The media file, opened; [`MediaError`] if it is in none of `CONTAINERS`."""
    # The "file:" prefix keeps FFmpeg from taking a name such as "concat:..." or "12:30.mp4" for a protocol.
    file = BytesIO(medium.content) if isinstance(medium, EmbeddedMedia) else f"file:{medium}"
    try:
        # Old taggers wrote titles in the local code page; PyAV would refuse the whole file for them.
        return av.open(file, metadata_errors="ignore", options={"format_whitelist": CONTAINERS})
    except av.error.ArgumentError as error:
        path = Path(medium.name) if isinstance(medium, EmbeddedMedia) else medium
        reason = "is in no container that is read here, or damaged; playlists and scripts are not followed"
        raise MediaError(path, reason) from error


def header_duration(container: av.container.InputContainer, path: Path) -> float | None:
    """Seconds, as the header states them; [`MediaError`] if it declares no streams."""
    if not container.streams:
        raise MediaError(path, "holds no streams")
    return None if container.duration is None or container.duration < 0 else container.duration / av.time_base
