"""VGGSound (Chen et al., ICASSP 2020): the official tables over whatever clips are on disk.

Class names and super-categories in `vggsound_labels.csv` are those of the official `stat.csv`
(https://github.com/hche11/VGGSound, CC BY 4.0), sorted; a class's position is its id, as in the official loader.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from datasets.utils import tqdm
from transformers.utils import logging

from .clip_source import SPLITS, ClipReport, ClipRow, ClipSource, collect_rows, size_of_file
from .csv_rows import read_rows
from .media import PathLike

logger = logging.get_logger(__name__)

ANNOTATION_FILES = ("vggsound.csv", "vggsound_test.csv", "test.csv")
ANNOTATION_FOLDERS = ("", "annotations", "data")
# In order of preference where one clip lies there several times.
VIDEO_EXTENSIONS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".flv", ".3gp", ".mpg", ".mpeg", ".ts", ".wmv")
AUDIO_EXTENSIONS = (".wav", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".aac")
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png")
EXTENSIONS = VIDEO_EXTENSIONS + AUDIO_EXTENSIONS + IMAGE_EXTENSIONS
# Of the ten frames CAV-MAE extracts (folders frame_0 .. frame_9) it evaluates frame 5, or else the next lower one.
OFFICIAL_FRAME = 5


def vggsound_super_categories() -> dict[str, str]:
    """Super-category (animals, home, music, ...) of each of the 309 official classes, in the order of their ids."""
    with open(Path(__file__).with_name("vggsound_labels.csv"), encoding="utf-8", newline="") as file:
        return {row["label"]: row["super_category"] for row in csv.DictReader(file)}


def VGGSound(
    data_dir: PathLike,
    *,
    clips_dir: PathLike | None = None,
    annotations: PathLike | Sequence[PathLike] | None = None,
    extensions: Sequence[str] = EXTENSIONS,
) -> ClipSource:
    """VGGSound as far as it is on disk: 309 classes whatever is there, missing clips counted, never renumbered.

    The table is `vggsound.csv` or `vggsound_test.csv` (id, start second, label, split) or `test.csv`
    (`<id>_<start, 6 digits>.mp4`, label), whichever is found first in `data_dir`, its `annotations` or `data` folder.
    Clips are found by their name `<id>_<start, 6 digits>` anywhere below `clips_dir`: flat, by split, by class, as
    unpacked from `vggsound_00.tar.gz`..., or as sound and `frame_0`..`frame_9` pictures as CAV-MAE extracts them.

    Args:
        data_dir (`str` or `os.PathLike`): The folder of the data set.
        clips_dir (`str` or `os.PathLike`, *optional*): Where the clips are, if not below `data_dir`.
        annotations (`str` or `os.PathLike` or sequence of these, *optional*): The table or tables to read instead. A
            two-column table takes its split from its file name (`train.csv`, `test.csv`).
        extensions (sequence of `str`, *optional*): File name endings of clips, the preferred first.

    Raises:
        `FileNotFoundError`: No table, or none of its clips.
        `ValueError`: A row cannot be read, names an unknown class, or contradicts another.
    """
    data_dir = Path(data_dir)
    return index_vggsound_layout(
        _find_annotations(data_dir) if annotations is None else annotations,
        data_dir if clips_dir is None else clips_dir,
        list(vggsound_super_categories()),
        extensions=extensions,
    )


def index_vggsound_layout(
    annotations: PathLike | Sequence[PathLike],
    clips_dir: PathLike,
    label_names: Sequence[str],
    *,
    extensions: Sequence[str] = EXTENSIONS,
) -> ClipSource:
    """Reads any data set in VGGSound's layout with its own classes; see [`VGGSound`].

    Args:
        annotations (`str` or `os.PathLike` or sequence of these): The table or tables.
        clips_dir (`str` or `os.PathLike`): The folder below which the clips are.
        label_names (sequence of `str`): Class names by label id.
        extensions (sequence of `str`, *optional*): File name endings of clips, the preferred first.
    """
    paths = [annotations] if isinstance(annotations, (str, os.PathLike)) else annotations
    report = ClipReport()
    rows = collect_rows(chain.from_iterable(_parse(Path(path)) for path in paths), label_names, report)
    files = _index_files(Path(clips_dir), rows, extensions)
    if not files:
        raise FileNotFoundError(
            f"none of the {len(rows):,} clips of {', '.join(map(str, paths))} is below {clips_dir}; a clip is named "
            f"like {next(iter(rows), '<id>_<start>')}{VIDEO_EXTENSIONS[0]}. Pass the folder of the clips as clips_dir."
        )
    present = _present_rows(rows, files, extensions, report)
    return ClipSource.from_rows(label_names, present, report)


def _find_annotations(data_dir: Path) -> Path:
    candidates = [data_dir / folder / name for name in ANNOTATION_FILES for folder in ANNOTATION_FOLDERS]
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"no {', '.join(ANNOTATION_FILES)} in {data_dir} or its folders {', '.join(ANNOTATION_FOLDERS[1:])}; get "
        "vggsound.csv from https://github.com/hche11/VGGSound or pass annotations="
    )


def _parse(path: Path) -> Iterator[tuple[str, ClipRow]]:
    """Place (file and line, for messages) and content of each row of one table."""
    for line, fields in read_rows(path):
        place = f"{path}, line {line}"
        yield place, _parse_row(fields, path, place)


def _parse_row(fields: list[str], path: Path, place: str) -> ClipRow:
    if len(fields) == 2:
        clip_id, split = os.path.splitext(fields[0])[0], path.stem.removeprefix("vggsound_")
    elif len(fields) == 4 and fields[1].isdecimal():
        clip_id, split = f"{fields[0]}_{int(fields[1]):06d}", fields[3]
    else:
        raise ValueError(
            f"{place}: expected 'id,start second,label,split' or '<id>_<start, 6 digits>.mp4,label' without a header, "
            f"got {fields}; quote labels that contain a comma"
        )
    if split not in SPLITS:
        hint = "name a two-column table after its split" if len(fields) == 2 else "the fourth column is the split"
        raise ValueError(f"{place}: unknown split {split!r}, expected one of {', '.join(SPLITS)}; {hint}")
    return ClipRow(clip_id, split, fields[-1] if len(fields) == 2 else fields[2])


def _index_files(folder: Path, wanted: dict[str, ClipRow], extensions: Sequence[str]) -> dict[str, list[str]]:
    """Paths of every wanted clip by its name, from one walk of the tree."""
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder of the clips {folder} does not exist; pass clips_dir")
    known = {extension.lower() for extension in extensions}
    files: dict[str, list[str]] = {}
    for path in tqdm(_walk(str(folder)), desc=f"Indexing {folder}", unit=" files"):
        stem, extension = os.path.splitext(os.path.basename(path))
        if stem in wanted and extension.lower() in known:
            files.setdefault(stem, []).append(path)
    return files


def _walk(root: str) -> Iterator[str]:
    """Files below `root`, through links to folders but never twice through one folder, hidden folders left out."""
    seen = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        identity = os.path.realpath(folder)
        if identity in seen:
            subfolders.clear()
            continue
        seen.add(identity)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (os.path.join(folder, name) for name in names)


def _present_rows(
    rows: dict[str, ClipRow], files: dict[str, list[str]], extensions: Sequence[str], report: ClipReport
) -> list[ClipRow]:
    order = {extension.lower(): rank for rank, extension in enumerate(extensions)}
    has_videos = any(_videos(paths) for paths in files.values())
    choose = _choose_video if has_videos else _choose_sound_and_picture
    present = []
    for clip_id, row in rows.items():
        paths = sorted(files.get(clip_id, []), key=lambda path: (order[_extension(path)], path.count(os.sep), path))
        chosen = choose(paths)
        if not any(chosen.values()):
            report.add(row.split, "missing", clip_id)
            continue
        sizes = {path: size_of_file(path) for path in chosen.values() if path}
        if absent := [path for path, size in sizes.items() if size < 0]:
            report.add(row.split, "missing", clip_id, f"no file {absent[0]}")
        elif empty := [path for path, size in sizes.items() if size == 0]:
            report.add(row.split, "corrupt", clip_id, f"{empty[0]} is empty (0 bytes)")
        else:
            _note_parts(report, row, paths, chosen)
            present.append(ClipRow(clip_id, row.split, row.label, chosen))
    return present


def _choose_video(paths: list[str]) -> dict[str, str | None]:
    return {"video": next(iter(_videos(paths)), None)}


def _choose_sound_and_picture(paths: list[str]) -> dict[str, str | None]:
    pictures = sorted(_of(paths, IMAGE_EXTENSIONS), key=_frame_rank)
    return {"image": next(iter(pictures), None), "audio": next(iter(_of(paths, AUDIO_EXTENSIONS)), None)}


def _frame_rank(path: str) -> tuple[bool, int]:
    """Orders pictures as CAV-MAE falls back: frame 5, 4, ... 0, then those above."""
    number = os.path.basename(os.path.dirname(path)).removeprefix("frame_")
    distance = OFFICIAL_FRAME - (int(number) if number.isdecimal() else 0)
    return distance < 0, abs(distance)


def _note_parts(report: ClipReport, row: ClipRow, paths: list[str], chosen: dict[str, str | None]) -> None:
    if "video" in chosen and len(_videos(paths)) > 1:
        report.note("duplicate_files")
    if "audio" in chosen and chosen["audio"] is None:
        report.add(row.split, "soundless", row.clip_id, "no sound file")
    if "image" in chosen and chosen["image"] is None:
        report.add(row.split, "pictureless", row.clip_id, "no picture file")


def _extension(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _videos(paths: list[str]) -> list[str]:
    return [path for path in paths if _extension(path) not in AUDIO_EXTENSIONS + IMAGE_EXTENSIONS]


def _of(paths: list[str], extensions: Sequence[str]) -> list[str]:
    return [path for path in paths if _extension(path) in extensions]
