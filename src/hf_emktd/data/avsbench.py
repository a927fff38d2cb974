"""AVSBench (Zhou et al., ECCV 2022, and its semantic extension): the official tables over whatever scenes are on disk.

Layout as the official loaders read it (https://github.com/OpenNLPLab/AVSBench, `avs_scripts/*/dataloader.py` and
`avss/color_dataloader.py`). Sound is read from `audio_wav`, or else from `raw_videos`; the spectrograms in
`audio_log_mel` are pickles, which can run code when they are opened, and are never read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .clip_source import ClipReport, ClipRow, ClipSource, collect_rows, size_of_file
from .clip_table import SPLIT_NAMES
from .csv_rows import read_records
from .media import PathLike
from .vggsound import VIDEO_EXTENSIONS

__all__ = ["AVSBench", "Places", "index_avsbench_layout", "places_of"]

SOUNDING = "sounding"
SEMANTIC_LABELS = ("v1s", "v1m", "v2")
# a second each; the videos new in the semantic subset are twice as long
NUM_FRAMES = 5
NUM_FRAMES_V2 = 10


@dataclass(frozen=True)
class _Subset:
    """Where a subset's table lies below the folder of the data set, and its columns."""

    folders: tuple[str, ...]
    table: str
    id_column: str
    label_column: str | None


SUBSETS = {
    "s4": _Subset(
        ("Single-source", "avsbench_data/Single-source", "AVSBench_object/Single-source", ""),
        "s4_meta_data.csv",
        "name",
        "category",
    ),
    "ms3": _Subset(
        ("Multi-sources", "avsbench_data/Multi-sources", "AVSBench_object/Multi-sources", ""),
        "ms3_meta_data.csv",
        "video_id",
        None,
    ),
    "avss": _Subset(("", "AVSBench_semantic", "AVSS", "avs_released"), "metadata.csv", "uid", "label"),
}


def AVSBench(data_dir: PathLike, *, subset: str = "s4") -> ClipSource:
    """
    AVSBench as far as it is on disk: scenes of five frames, one a second, and masks of what sounds.

    | subset | table | masks | classes |
    | --- | --- | --- | --- |
    | `"s4"`, one source | `Single-source/s4_meta_data.csv` | training: first frame only; else all | 23 categories |
    | `"ms3"`, several | `Multi-sources/ms3_meta_data.csv` | all frames | one, `sounding` |
    | `"avss"`, semantic | `metadata.csv` | training scenes of v1s: first frame only; else all | v1s, v1m, v2 |

    The split `val` is called `validation`. The masks of `"avss"` colour each pixel by its class; here any colour but
    the background's sounds and the classes are not told apart. Its v2 videos have ten frames.

    Scenes without their frames (or the raw video to decode them from) are counted as missing, those without the mask
    of a labelled frame as maskless; both are left out. Without `audio_wav` and raw video a scene is soundless.

    Args:
        data_dir (`str` or `os.PathLike`): The folder that holds `Single-source` and `Multi-sources`, or the folder
            above it, or that of the subset; for `"avss"` the one with `metadata.csv`, or the one above.
        subset (`str`, *optional*, defaults to `"s4"`): `"s4"`, `"ms3"` or `"avss"`.

    Returns:
        [`ClipSource`] with the columns `frames` (paths; empty where they must be decoded from `video`), `masks` (a
        path a frame, `None` where it is not labelled), `audio` and `video` (`None` where not needed).

    Raises:
        `FileNotFoundError`: No table, or none of its scenes.
        `ValueError`: The subset is unknown or a row cannot be read.
    """
    return index_avsbench_layout(data_dir, subset)


def index_avsbench_layout(data_dir: PathLike, subset: str, label_names: Sequence[str] | None = None) -> ClipSource:
    """Reads any data set in AVSBench's layout; see [`AVSBench`].

    Args:
        data_dir (`str` or `os.PathLike`): The folder of the data set.
        subset (`str`): `"s4"`, `"ms3"` or `"avss"`.
        label_names (sequence of `str`, *optional*): Class names by label id; by default the sorted categories of the
            whole table for `"s4"`, whatever is on disk.
    """
    if subset not in SUBSETS:
        raise ValueError(f"unknown subset {subset!r}; expected {', '.join(map(repr, SUBSETS))}")
    table = _find_table(Path(data_dir), SUBSETS[subset])
    placed_rows = list(_parse(table, SUBSETS[subset]))
    report = ClipReport()
    names = label_names or _label_names(subset, [row for _, row in placed_rows])
    rows = collect_rows(placed_rows, names, report)
    present = [row for row in (_present(row, subset, table.parent, report) for row in rows.values()) if row]
    if not present:
        wanted = places_of(next(iter(rows.values())), subset, table.parent).frames[0][0] if rows else "any row"
        raise FileNotFoundError(
            f"none of the {len(rows):,} scenes of {table} is beside it, such as {wanted}; unpack the data there"
        )
    return ClipSource.from_rows(names, present, report)


def _find_table(data_dir: Path, subset: _Subset) -> Path:
    for folder in subset.folders:
        if (path := data_dir / folder / subset.table).is_file():
            return path
    raise FileNotFoundError(
        f"no {subset.table} in {data_dir} or its folders {', '.join(filter(None, subset.folders))}; get AVSBench from "
        "https://github.com/OpenNLPLab/AVSBench and pass its folder as data_dir"
    )


def _parse(path: Path, subset: _Subset) -> Iterator[tuple[str, ClipRow]]:
    """Place (file and line, for messages) and content of each row."""
    columns = [subset.id_column, "split", *filter(None, [subset.label_column])]
    header, records = read_records(path)
    if missing := [column for column in columns if column not in header]:
        raise ValueError(f"{path}: no column {', '.join(missing)}; got {header}")
    for line, record in records:
        place = f"{path}, line {line}"
        if record is None:
            raise ValueError(f"{place}: more or fewer fields than the header; quote fields that contain a comma")
        values = {column: _plain_name(record[column], f"{place}, column {column}") for column in columns}
        if values["split"] not in SPLIT_NAMES:
            raise ValueError(f"{place}, column split: unknown split {values['split']!r}, expected train, val or test")
        label = values[subset.label_column] if subset.label_column else SOUNDING
        yield place, ClipRow(values[subset.id_column], SPLIT_NAMES[values["split"]], label)


def _plain_name(value: str, place: str) -> str:
    """Refuses what cannot name a file or folder inside another one: a table must not lead out of its folder."""
    if value in ("", os.curdir, os.pardir) or "/" in value or os.sep in value:
        raise ValueError(f"{place}: expected the name of a file or folder, got {value!r}")
    return value


def _label_names(subset: str, rows: list[ClipRow]) -> list[str]:
    if subset == "s4":
        return sorted({row.label for row in rows})
    return [SOUNDING] if subset == "ms3" else list(SEMANTIC_LABELS)


@dataclass(frozen=True)
class Places:
    """Where the parts of one scene may lie, the preferred place first; none for the mask of an unlabelled frame."""

    frames: list[list[str]]
    masks: list[list[str]]
    audio: list[str]
    video: list[str]
    pickled_sound: str | None = None


def places_of(row: ClipRow, subset: str, root: PathLike) -> Places:
    """Places of one scene's files below the folder `root` of the subset's table."""
    labelled = 1 if row.split == "train" and (subset == "s4" or row.label == "v1s") else None
    if subset == "avss":
        return _semantic_places(row, root, labelled)
    split = "val" if row.split == "validation" else row.split
    if subset == "s4":
        part = f"{split}/{row.label}/{row.clip_id}"
        return _object_places(f"{root}/s4_data", row.clip_id, part, part, labelled)
    return _object_places(f"{root}/ms3_data", row.clip_id, f"{split}/{row.clip_id}", row.clip_id, labelled)


def _object_places(data: str, clip_id: str, part: str, unsplit_part: str, labelled: int | None) -> Places:
    """Places in the single- and multi-source subsets; the latter's pictures keep `.mp4` in their names."""
    names = [[f"{clip_id}_{k}.png", f"{clip_id}.mp4_{k}.png"] for k in range(1, NUM_FRAMES + 1)]
    return Places(
        frames=[[f"{data}/visual_frames/{unsplit_part}/{name}" for name in pair] for pair in names],
        masks=_labelled([[f"{data}/gt_masks/{part}/{name}" for name in pair] for pair in names], labelled),
        audio=[f"{data}/audio_wav/{part}.wav"],
        video=[f"{data}/raw_videos/{unsplit_part}{extension}" for extension in VIDEO_EXTENSIONS],
        pickled_sound=f"{data}/audio_log_mel/{part}.pkl",
    )


def _semantic_places(row: ClipRow, root: PathLike, labelled: int | None) -> Places:
    folder = f"{root}/{row.label}/{row.clip_id}"
    numbers = range(NUM_FRAMES_V2 if row.label == "v2" else NUM_FRAMES)
    return Places(
        frames=[[f"{folder}/frames/{k}{extension}" for extension in (".jpg", ".png")] for k in numbers],
        masks=_labelled([[f"{folder}/labels_rgb/{k}.png"] for k in numbers], labelled),
        audio=[f"{folder}/audio.wav"],
        video=[],
    )


def _labelled(masks: list[list[str]], labelled: int | None) -> list[list[str]]:
    return masks if labelled is None else masks[:labelled] + [[]] * (len(masks) - labelled)


def _present(row: ClipRow, subset: str, root: Path, report: ClipReport) -> ClipRow | None:
    """The row with its files, or `None` and a note in the report."""
    places = places_of(row, subset, root)
    files = _choose(places)
    if problem := _problem(files, places):
        report.add(row.split, problem[0], row.clip_id, problem[1])
        return None
    if files["audio"] is None and files["video"] is None:
        report.add(row.split, "soundless", row.clip_id, _soundless_reason(places))
    return ClipRow(row.clip_id, row.split, row.label, files)


def _choose(places: Places) -> dict[str, Any]:
    """Files by column: all frames or none, and the raw video only where frames or sound must come from it."""
    frames = [_first(paths) for paths in places.frames]
    frames = [] if None in frames else frames
    audio = _first(places.audio)
    video = None if frames and audio else _first(places.video)
    return {"frames": frames, "masks": [_first(paths) for paths in places.masks], "audio": audio, "video": video}


def _first(paths: list[str]) -> str | None:
    return next(filter(os.path.isfile, paths), None)


def _problem(files: dict[str, Any], places: Places) -> tuple[str, str] | None:
    """Kind and reason if the scene cannot be used."""
    if not files["frames"] and files["video"] is None:
        absent = next(paths[0] for paths in places.frames if _first(paths) is None)
        return "missing", f"no file {absent}"
    for paths, found in zip(places.masks, files["masks"], strict=True):
        if paths and found is None:
            return "maskless", f"no file {paths[0]}"
    used = [*files["frames"], *files["masks"], files["audio"], files["video"]]
    if empty := [path for path in used if path and size_of_file(path) == 0]:
        return "corrupt", f"{empty[0]} is empty (0 bytes)"
    return None


def _soundless_reason(places: Places) -> str:
    reason = f"no file {places.audio[0]} and no raw video"
    if places.pickled_sound is not None and os.path.isfile(places.pickled_sound):
        reason += f"; {places.pickled_sound} is a pickle and not read, convert the raw videos to wav instead"
    return reason
