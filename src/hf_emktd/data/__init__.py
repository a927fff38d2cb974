"""Clips: media files in, rows of a fixed shape out."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from .augmentation import AugmentationArguments, ClipTransform
from .clip_source import ClipReport, ClipRow, ClipSource, status_of
from .clip_table import ClipTable
from .collators import AudioVisualCollator
from .features import extract_features
from .media import Clip, MediaError, PathLike, read_clip, read_image, write_clip
from .vggsound import VGGSound

__all__ = [
    "AudioVisualCollator",
    "AugmentationArguments",
    "Clip",
    "ClipReport",
    "ClipRow",
    "ClipSource",
    "ClipTable",
    "ClipTransform",
    "MediaError",
    "VGGSound",
    "extract_features",
    "is_table",
    "load_clips",
    "read_clip",
    "read_image",
    "status_of",
    "write_clip",
]

# Module and function of each named data set, imported only when asked for.
DATASETS = {"vggsound": (".vggsound", "VGGSound"), "touchtone": (".touchtone", "Touchtone")}
TABLE_SUFFIXES = (".csv", ".tsv")


def is_table(name_or_csv: PathLike) -> bool:
    """Whether this names a table of clips and not a data set."""
    return Path(name_or_csv).suffix.lower() in TABLE_SUFFIXES


def load_clips(name_or_csv: PathLike, data_dir: PathLike | None = None, **options) -> ClipSource:
    """Loads a data set by its name or from a table of clips.

    Args:
        name_or_csv (`str` or `os.PathLike`): `"vggsound"`, `"touchtone"`, or the path of a table ([`ClipTable`]).
        data_dir (`str` or `os.PathLike`, *optional*): The folder of the data set; for a table, what its paths are
            relative to. `"vggsound"` needs it.
        options: Further options of [`VGGSound`], [`Touchtone`] or [`ClipTable`].

    Raises:
        `ValueError`: The name is unknown, or `"vggsound"` comes without `data_dir`.
    """
    name = str(name_or_csv)
    if is_table(name):
        return ClipTable(name, root=data_dir, **options)
    if name not in DATASETS:
        raise ValueError(
            f"unknown data set {name!r}; expected {', '.join(map(repr, DATASETS))} or the path of a .csv or .tsv"
        )
    if name == "vggsound" and data_dir is None:
        raise ValueError("'vggsound' needs data_dir, the folder with vggsound.csv and the clips")
    module, function = DATASETS[name]
    return getattr(import_module(module, __name__), function)(data_dir, **options)
