"""Writes a clip source as shards: in parallel, each file whole or not at all, taken up again where it stopped."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from datasets import Dataset, Features, List, Value, Video
from tqdm.auto import tqdm

from ..whole_files import sha256_of
from .clip_source import COLUMNS, UNUSABLE, ClipReport, kind_of, status_of
from .feature_cache import OWN_COLUMNS, cache_key, note_problem
from .features import extract_clip
from .media import Clip, MediaError, PathLike, as_media_error, read_clip, read_image
from .processes import fork_without_garbage
from .shards import CONTAINERS, INDEX_NAME, STORES, Shard, ShardIndex, feature_settings, load_shards, write_json

if TYPE_CHECKING:
    from ..models.cav_mae import CavMaeProcessor
    from .clip_source import ClipSource

__all__ = ["write_shards"]

PROGRESS_FOLDER = ".unfinished"
REPORT_NAME = "clips.json"
# what a reader holds of a file at once: 6 MB of features at the official size
ROWS_PER_GROUP = 16
SHUFFLED_SPLIT = "train"


def write_shards(
    source: ClipSource,
    directory: PathLike,
    processor: CavMaeProcessor | None = None,
    *,
    store: str = "features",
    container: str = "parquet",
    num_frames: int = 10,
    max_seconds: float = 10.0,
    clips_per_shard: int = 256,
    num_proc: int = 1,
) -> ShardIndex:
    """
    Writes every usable clip of `source` into shards below `directory`, with an index, a card for the Hub and the
    report of missing and odd clips (`clips.json`).

    The training split is written in random order, always the same one, because a reader shuffles neighbours only;
    tables are often sorted by class. Every clip is decoded once, also where media are stored: corrupt and soundless
    ones are left out as in [`~data.extract_features`]. A run that was killed is taken up by calling this again: at
    most the shards in work are lost.

    Args:
        source: [`ClipSource`] with `video`, or `image` and / or `audio` paths.
        processor: [`CavMaeProcessor`] that the features are made for; media need none.
        store: `"features"` or `"media"`.
        container: `"parquet"`, or `"webdataset"` (tar, media only).
        num_frames, max_seconds: those of [`~data.extract_features`].
        clips_per_shard: at most so many in a file. Make at least as many training shards as ranks times workers read
            them.
        num_proc: processes that write.

    Raises:
        ValueError: for an unknown choice, features without a processor, or a folder with shards of other clips or
            settings.
    """
    _check_choices(store, container, processor, clips_per_shard)
    directory = Path(directory)
    settings = feature_settings(processor, num_frames, max_seconds) if store == "features" else None
    key = _key(source, [store, container, clips_per_shard, settings])
    if (directory / INDEX_NAME).is_file():
        return _finished(directory, key)
    _take_up(directory, key)
    tasks = _tasks(source, directory, container, clips_per_shard)
    read = partial(_read_features, processor=processor, num_frames=num_frames, max_seconds=max_seconds)
    write = partial(_write_shard, read=read if store == "features" else _read_media)
    written = []
    for progress in _in_parallel(write, tasks, num_proc):
        written.append(progress)
        for split, kind, clip_id, reason in progress["problems"]:
            note_problem(source.report, split, kind, clip_id, reason)
    index = _index(source, tasks, written, store=store, container=container, settings=settings, key=key)
    source.report.save(directory / REPORT_NAME)
    (directory / "README.md").write_text(_card(index), encoding="utf-8")
    index.save(directory)
    _forget_progress(directory)
    return load_shards(directory)


@dataclass(frozen=True)
class _Task:
    """One shard to write."""

    directory: Path
    split: str
    name: str
    rows: Dataset

    @property
    def file(self) -> str:
        return f"data/{self.name}"

    @property
    def progress(self) -> Path:
        return self.directory / PROGRESS_FOLDER / f"{self.name}.json"


def _check_choices(store: str, container: str, processor: Any, clips_per_shard: int) -> None:
    if store not in STORES:
        raise ValueError(f"store must be {' or '.join(STORES)}, got {store!r}.")
    if container not in CONTAINERS:
        raise ValueError(f"container must be {' or '.join(CONTAINERS)}, got {container!r}.")
    if store == "features" and processor is None:
        raise ValueError("features are made for a model: give its processor, or store='media'.")
    if store == "features" and container == "webdataset":
        raise ValueError("WebDataset shards hold media files; store features in Parquet.")
    if clips_per_shard < 1:
        raise ValueError(f"clips_per_shard must be at least 1, got {clips_per_shard}.")


def _key(source: ClipSource, choices: list[Any]) -> str:
    splits = {split: cache_key(clips, choices) for split, clips in source.splits.items()}
    return hashlib.sha256(json.dumps(splits, sort_keys=True).encode()).hexdigest()[:24]


def _finished(directory: Path, key: str) -> ShardIndex:
    index = load_shards(directory)
    if index.key != key:
        raise ValueError(
            f"{directory} holds finished shards of other clips or settings; choose another folder, or remove it."
        )
    return index


def _take_up(directory: Path, key: str) -> None:
    plan = directory / PROGRESS_FOLDER / "key"
    if plan.is_file() and plan.read_text() != key:
        raise ValueError(
            f"{directory} holds unfinished shards of other clips or settings; choose another folder, or remove it."
        )
    for folder in (plan.parent, directory / "data"):
        folder.mkdir(parents=True, exist_ok=True)
    plan.write_text(key)


def _tasks(source: ClipSource, directory: Path, container: str, clips_per_shard: int) -> list[_Task]:
    ending = "parquet" if container == "parquet" else "tar"
    tasks = []
    for split, clips in source.splits.items():
        order = np.arange(len(clips))
        if split == SHUFFLED_SPLIT:
            order = np.random.default_rng(0).permutation(len(clips))
        starts = range(0, len(clips), clips_per_shard)
        for number, start in enumerate(starts):
            name = f"{split}-{number:05d}-of-{len(starts):05d}.{ending}"
            tasks.append(_Task(directory, split, name, clips.select(order[start : start + clips_per_shard])))
    return tasks


def _in_parallel(write: Any, tasks: list[_Task], num_proc: int) -> Iterator[dict[str, Any]]:
    bar = partial(tqdm, total=len(tasks), desc="Shards", unit="shard")
    processes = min(num_proc, len(tasks))
    if processes <= 1:
        yield from bar(map(write, tasks))
        return
    with fork_without_garbage(), multiprocessing.get_context("fork").Pool(processes, _one_thread) as pool:
        yield from bar(pool.imap(write, tasks))


def _one_thread() -> None:
    # a forked process must not enter the parent's thread pool
    torch.set_num_threads(1)


def _write_shard(task: _Task, read: Any) -> dict[str, Any]:
    """Writes one shard unless a run before did; what became of it, as plain JSON values."""
    path = task.directory / task.file
    if task.progress.is_file():
        progress = json.loads(task.progress.read_text(encoding="utf-8"))
        if not progress["clips"] or (path.is_file() and path.stat().st_size == progress["bytes"]):
            return progress
    rows, problems = [], []
    for row in task.rows:
        content, kinds = read(row)
        problems += [(task.split, kind, row["clip_id"], reason) for kind, reason in kinds]
        if not UNUSABLE & {kind for kind, _ in kinds}:
            rows.append({name: row[name] for name in OWN_COLUMNS} | content)
    progress = {"clips": len(rows), "bytes": 0, "sha256": "", "problems": problems}
    if rows:
        progress |= _write_whole(path, rows, task.rows.features["label"])
    write_json(task.progress, progress)
    return progress


def _read_features(row: dict[str, Any], **options: Any) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    try:
        content = extract_clip(row, **options)
    except MediaError as error:
        return {}, [(kind_of(error), str(error))]
    return content, [(problem["kind"], problem["reason"]) for problem in content.pop("problems")]


def _read_media(row: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    paths = {column: row[column] for column in COLUMNS if row.get(column)}
    try:
        kind = _status(paths)
        contents = {column: _read_bytes(path) for column, path in paths.items()}
    except MediaError as error:
        return {}, [(kind_of(error), str(error))]
    content = {column: None for column in COLUMNS if column in row}
    content |= {
        column: {"path": f"{row['clip_id']}{Path(path).suffix.lower()}", "bytes": contents[column]}
        for column, path in paths.items()
    }
    return content, [] if kind == "ok" else [(kind, "")]


def _read_bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise as_media_error(Path(path), error) from error


def _status(paths: dict[str, str]) -> str:
    if "video" in paths:
        return status_of(read_clip(paths["video"]))
    clip = read_clip(paths["audio"], read_video=False) if "audio" in paths else Clip(Path())
    frames = read_image(paths["image"])[None] if "image" in paths else None
    # a modality that the table leaves out is not expected
    if clip.waveform is None or frames is None:
        return "ok"
    clip.frames = frames
    return status_of(clip)


def _write_whole(path: Path, rows: list[dict[str, Any]], label: datasets.ClassLabel) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
        unfinished = Path(folder) / path.name
        if path.suffix == ".tar":
            _write_tar(unfinished, rows)
        else:
            table = Dataset.from_list(rows, features=_features(rows[0], label))
            table.to_parquet(unfinished, batch_size=ROWS_PER_GROUP)
        digest = sha256_of(unfinished)
        size = unfinished.stat().st_size
        os.replace(unfinished, path)
    return {"bytes": size, "sha256": digest}


def _features(row: dict[str, Any], label: datasets.ClassLabel) -> Features:
    embedded = {"bytes": Value("binary"), "path": Value("string")}
    kinds = {
        "fbank": Value("binary"),
        "frames": List(Value("binary")),
        "video": Video(decode=False),
        "image": datasets.Image(decode=False),
        "audio": embedded,
    }
    return Features(
        {"clip_id": Value("string"), "label": label} | {name: kinds[name] for name in row if name in kinds}
    )


def _write_tar(path: Path, rows: list[dict[str, Any]]) -> None:
    """Each clip as `<number>.json`, with its name and label, and its media files."""
    with tarfile.open(path, "w") as archive:
        for number, row in enumerate(rows):
            about = json.dumps({name: row[name] for name in OWN_COLUMNS}).encode()
            for ending, content in _tar_members(row, about):
                # equal clips give equal bytes: no time, no owner
                member = tarfile.TarInfo(f"{number:06d}.{ending}")
                member.size = len(content)
                archive.addfile(member, BytesIO(content))


def _tar_members(row: dict[str, Any], about: bytes) -> Iterator[tuple[str, bytes]]:
    yield "json", about
    for column in COLUMNS:
        if row.get(column) is not None:
            # not the file's own ending: datasets wants the same ones in all samples, and reads bytes as they are
            yield column, row[column]["bytes"]


def _index(source: ClipSource, tasks: Iterable[_Task], written: list[dict[str, Any]], **choices: Any) -> ShardIndex:
    splits: dict[str, list[Shard]] = {}
    for task, progress in zip(tasks, written, strict=True):
        if progress["clips"]:
            shard = Shard(task.file, progress["clips"], progress["bytes"], progress["sha256"])
            splits.setdefault(task.split, []).append(shard)
    report = source.report
    return ShardIndex(
        label_names=source.label_names,
        splits=splits,
        manifest_hash=report.manifest_hash,
        rows=report.rows,
        found=report.found,
        notes=report.notes,
        problems=_names_by_kind(report),
        **choices,
    )


def _names_by_kind(report: ClipReport) -> dict[str, dict[str, list[str]]]:
    """Reasons stay at home in `clips.json`: they name folders of this machine."""
    return {split: {kind: report.clip_ids(split, kind) for kind in kinds} for split, kinds in report.counts.items()}


def _card(index: ShardIndex) -> str:
    ending = "parquet" if index.container == "parquet" else "tar"
    files = "".join(f"  - split: {split}\n    path: data/{split}-*.{ending}\n" for split in index.splits)
    lines = [f"| {split} | {index.num_clips(split):,} | {len(shards)} |" for split, shards in index.splits.items()]
    return (
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}tags:\n- audio-visual\n- hf_emktd\n---\n\n"
        f"# Clips in {len(index.label_names)} classes\n\n"
        f"Written by `scripts/prepare_dataset.py --store {index.store}` of hf_emktd; `shards.json` has the classes, "
        "the checksum of every file and what was missing or odd. Train on it with `--dataset` and `--streaming true`."
        "\n\n| split | clips | shards |\n| --- | ---: | ---: |\n" + "\n".join(lines) + "\n"
    )


def _forget_progress(directory: Path) -> None:
    for file in (directory / PROGRESS_FOLDER).iterdir():
        file.unlink()
    (directory / PROGRESS_FOLDER).rmdir()
