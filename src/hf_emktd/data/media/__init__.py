"""
Reads and writes media files. Imports nothing of the package, so that an export can carry this folder with it: numpy,
PyAV and Pillow are enough.
"""

from .clip import Clip, EmbeddedMedia, MediaError, MediaNotFoundError, PathLike
from .containers import CONTAINERS, READ_ERRORS, as_media_error
from .reading import PICTURE_ERRORS, PICTURE_FORMATS, read_clip, read_image
from .sound import resample
from .writing import write_clip

__all__ = [
    "CONTAINERS",
    "PICTURE_ERRORS",
    "PICTURE_FORMATS",
    "READ_ERRORS",
    "Clip",
    "EmbeddedMedia",
    "MediaError",
    "MediaNotFoundError",
    "PathLike",
    "as_media_error",
    "read_clip",
    "read_image",
    "resample",
    "write_clip",
]
