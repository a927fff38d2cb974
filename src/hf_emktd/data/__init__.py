"""Clips: media files in, rows of a fixed shape out."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from .augmentation import AugmentationArguments, ClipTransform
from .avsbench import AVSBench
from .clip_source import ClipReport, ClipRow, ClipSource, status_of
from .clip_table import ClipTable
from .collators import AudioVisualCollator
from .features import extract_features
from .media import Clip, MediaError, MediaNotFoundError, PathLike, read_clip, read_image, write_clip
from .scene_augmentation import SceneAugmentationArguments, SceneTransform
from .scene_features import IGNORE_INDEX, extract_scene_features
from .shard_writing import write_shards
from .shards import ShardIndex, is_shards, load_shards
from .vggsound import VGGSound

__all__ = [
    "IGNORE_INDEX",
    "AVSBench",
    "AudioVisualCollator",
    "AugmentationArguments",
    "Clip",
    "ClipReport",
    "ClipRow",
    "ClipSource",
    "ClipTable",
    "ClipTransform",
    "MediaError",
    "MediaNotFoundError",
    "SceneAugmentationArguments",
    "SceneTransform",
    "ShardIndex",
    "VGGSound",
    "extract_features",
    "extract_scene_features",
    "is_shards",
    "is_table",
    "load_clips",
    "load_shards",
    "read_clip",
    "read_image",
    "status_of",
    "task_of",
    "write_clip",
    "write_shards",
]

CLASSIFICATION, SEGMENTATION = "audio-visual-classification", "audio-visual-segmentation"
# Module and function of each named data set, imported only when asked for, and its task.
DATASETS = {
    "vggsound": (".vggsound", "VGGSound", CLASSIFICATION),
    "touchtone": (".touchtone", "Touchtone", CLASSIFICATION),
    "avsbench": (".avsbench", "AVSBench", SEGMENTATION),
    "touchtone_scenes": (".touchtone_scenes", "TouchtoneScenes", SEGMENTATION),
}
# What must lie in the folder of a data set that cannot be made on first use.
NEEDED_FOLDERS = {
    "vggsound": "the folder with vggsound.csv and the clips",
    "avsbench": "the folder with Single-source and Multi-sources",
}
TABLE_SUFFIXES = (".csv", ".tsv")


def is_table(name_or_csv: PathLike) -> bool:
    """Whether this names a table of clips and not a data set."""
    return Path(name_or_csv).suffix.lower() in TABLE_SUFFIXES


def task_of(name_or_csv: PathLike) -> str:
    """The task that a data set is for: `"audio-visual-classification"` or `"audio-visual-segmentation"`.

    Raises:
        `ValueError`: The name is unknown.
    """
    has_classes = is_table(name_or_csv) or is_shards(name_or_csv)
    return CLASSIFICATION if has_classes else _entry(str(name_or_csv))[2]


def load_clips(name_or_csv: PathLike, data_dir: PathLike | None = None, **options) -> ClipSource:
    """Loads a data set by its name or from a table of clips.

    Args:
        name_or_csv (`str` or `os.PathLike`): `"vggsound"`, `"touchtone"`, `"avsbench"`, `"touchtone_scenes"`, or the
            path of a table ([`ClipTable`]).
        data_dir (`str` or `os.PathLike`, *optional*): The folder of the data set; for a table, what its paths are
            relative to. `"vggsound"` and `"avsbench"` need it.
        options: Further options of [`VGGSound`], [`Touchtone`], [`AVSBench`], [`TouchtoneScenes`] or [`ClipTable`].

    Raises:
        `ValueError`: The name is unknown, or a data set that needs `data_dir` comes without.
    """
    name = str(name_or_csv)
    if is_table(name):
        return ClipTable(name, root=data_dir, **options)
    module, function, _ = _entry(name)
    if name in NEEDED_FOLDERS and data_dir is None:
        raise ValueError(f"{name!r} needs data_dir, {NEEDED_FOLDERS[name]}")
    return getattr(import_module(module, __name__), function)(data_dir, **options)


def _entry(name: str) -> tuple[str, str, str]:
    if name not in DATASETS:
        raise ValueError(
            f"unknown data set {name!r}; expected {', '.join(map(repr, DATASETS))} or the path of a .csv or .tsv"
        )
    return DATASETS[name]
