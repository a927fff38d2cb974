"""One pass over all clips of a source, cached as a `datasets.DatasetDict`, that counts what it meets."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import torch
from datasets import Dataset, DatasetDict, Features, List, Value
from filelock import FileLock
from transformers.utils import logging

from .clip_source import UNUSABLE, kind_of, refuse_clip
from .media import MediaError
from .processes import fork_without_garbage

if TYPE_CHECKING:
    from .clip_source import ClipReport, ClipSource


__all__ = ["cache_key", "extract_once"]

logger = logging.get_logger(__name__)

OWN_COLUMNS = ("clip_id", "label")
# other kinds of column hold the media themselves
PATHS = (Value("string"), List(Value("string")))
# a further process only pays off for this many clips
CLIPS_PER_PROCESS = 64
# clips of a file, which a killed run extracts again; 1.1 GB at the official size
CLIPS_PER_FILE = 4096
# rows written at once; 262 kB a row at the official size
WRITER_BATCH_SIZE = 128


def extract_once(
    source: ClipSource,
    extract_clip: Callable[..., dict[str, Any]],
    columns: Mapping[str, Any],
    *,
    parameters: Any,
    num_proc: int | None = None,
    **options: Any,
) -> DatasetDict:
    """
    Calls `extract_clip(row, **options)` for every clip of every split and stores what it returns.

    Each split is cached in the `datasets` cache directory under a key made of its clips (names, labels, order, size
    and time of change of their files, or what `source.contents` says of embedded ones) and `parameters`. A killed run
    loses the file at hand, `CLIPS_PER_FILE` clips; of two runs on the same clips one extracts and the other waits.

    Clips that are corrupt, lack sound or picture, or have vanished since the table was read, are left out. All
    problems are counted in `source.report`, also when the cache is used, and its summary is logged once. Where the
    report refuses problems, the first clip that would be left out ends the extraction. What had vanished is looked
    for again when the cache is used.

    Args:
        source: [`ClipSource`]; `clip_id` and `label` are kept, all other columns are paths.
        extract_clip: module-level function; its result has `columns` and `problems`, kinds of [`ClipReport`] that
            apply. A [`MediaError`] that it raises makes the clip corrupt, or missing.
        columns: `datasets` feature of each column that it returns.
        parameters: plain JSON values that decide the content.
        num_proc: number of processes; *optional*, defaults to one for each core at hand and `CLIPS_PER_PROCESS` clips.
        options: passed on to `extract_clip`.
    """
    splits = {}
    for split, clips in source.splits.items():
        key = cache_key(clips, [parameters, source.contents[split]] if split in source.contents else parameters)
        extracted = _extract_split(
            clips, split, key, extract_clip, columns, num_proc, source.report.is_strict, options
        )
        splits[split] = _usable(extracted, split, source)
    _tell(source.report)
    return DatasetDict(splits)


def _tell(report: ClipReport) -> None:
    left_out = [problem for problem in report.problems if problem["kind"] in UNUSABLE]
    if left_out:
        logger.warning(f"{report.summary()} Left out, such as {left_out[0]['clip_id']}: {left_out[0]['reason']}")
    else:
        (logger.warning if report.notes else logger.info)(report.summary())


def cache_key(clips: Dataset, parameters: Any) -> str:
    """Identifies what is extracted from `clips` with these parameters."""
    # Not the manifest hash: it knows neither the order of the clips nor the ids of their labels, which are stored.
    rows = [clips["clip_id"][:], clips["label"][:], clips.features["label"].names]
    columns = [name for name in _path_columns(clips) if clips.features[name] in PATHS]
    files = {name: [_state_of(paths) for paths in clips[name][:]] for name in columns}
    return hashlib.sha256(json.dumps([rows, files, parameters], sort_keys=True).encode()).hexdigest()[:24]


def _path_columns(clips: Dataset) -> list[str]:
    return [column for column in clips.column_names if column not in OWN_COLUMNS]


def _state_of(paths: str | list[str | None] | None) -> list | tuple[int, int] | None:
    """Size and time of change of files, none of one that vanished: what tells another recording of the same name."""
    if paths is None:
        return None
    if isinstance(paths, list):
        return [_state_of(path) for path in paths]
    try:
        status = os.stat(paths)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _extract_split(
    clips: Dataset,
    split: str,
    key: str,
    extract_clip: Callable[..., dict[str, Any]],
    columns: Mapping[str, Any],
    num_proc: int | None,
    is_strict: bool,
    options: Mapping[str, Any],
) -> Dataset:
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "hf_emktd_features" / key
    folder.mkdir(parents=True, exist_ok=True)
    problems = List({"kind": Value("string"), "reason": Value("string")})
    own = {column: clips.features[column] for column in OWN_COLUMNS}
    parts = []
    # a second run on the same clips waits for what the first one stores
    with FileLock(folder / ".lock"), fork_without_garbage(), _disk_errors_on_top():
        for leftover in folder.glob("tmp*"):  # what a killed process was writing
            leftover.unlink()
        for name, part in _parts(clips, split):
            extract = partial(
                part.map,
                _extract_row,
                with_rank=True,
                remove_columns=_path_columns(clips),
                features=Features({**own, **columns, "problems": problems}),
                fn_kwargs={
                    "extract_clip": extract_clip,
                    "columns": list(columns),
                    "is_strict": is_strict,
                    "options": dict(options),
                },
                num_proc=_processes(len(part), num_proc),
                writer_batch_size=WRITER_BATCH_SIZE,
                # `datasets` takes 64 characters with those of its processes
                new_fingerprint=f"{key}-{hashlib.sha256(name.encode()).hexdigest()[:8]}",
                cache_file_name=str(folder / f"{name}.arrow"),
                desc=f"Features ({name})",
            )
            extracted = extract()
            parts.append(extract(load_from_cache_file=False) if _has_returned(part, extracted) else extracted)
    return datasets.concatenate_datasets(parts) if len(parts) > 1 else parts[0]


@contextmanager
def _disk_errors_on_top() -> Iterator[None]:
    """`datasets` closes a file that cannot be written, and then tells of that."""
    try:
        yield
    except ValueError as error:
        cause = error.__context__
        while cause is not None and not (isinstance(cause, OSError) and cause.errno):
            cause = cause.__context__
        raise cause or error from None


def _has_returned(clips: Dataset, extracted: Dataset) -> bool:
    """Whether files are there that had vanished when they were to be read."""
    missing = [
        row
        for row, problems in enumerate(extracted["problems"])
        if any(problem["kind"] == "missing" for problem in problems)
    ]
    columns = [column for column in _path_columns(clips) if clips.features[column] in PATHS]
    return any(all(_is_there(clips[row][column]) for column in columns) for row in missing)


def _is_there(paths: str | list[str | None] | None) -> bool:
    paths = paths if isinstance(paths, list) else [paths]
    return all(path is None or os.path.isfile(path) for path in paths)


def _parts(clips: Dataset, split: str) -> Iterator[tuple[str, Dataset]]:
    """By name what is stored in a file of its own: at most so much is lost when a run is killed."""
    starts = range(0, len(clips), CLIPS_PER_FILE)
    if len(starts) < 2:
        yield split, clips
        return
    for number, start in enumerate(starts):
        part = clips.select(range(start, min(start + CLIPS_PER_FILE, len(clips))))
        yield f"{split}-{number:05d}-of-{len(starts):05d}", part


def _processes(num_clips: int, num_proc: int | None) -> int | None:
    if num_proc is None:
        num_proc = min(os.cpu_count() or 1, num_clips // CLIPS_PER_PROCESS)
    return num_proc if num_proc > 1 else None


def _extract_row(
    row: dict[str, Any],
    rank: int | None,
    extract_clip: Callable[..., dict[str, Any]],
    columns: list[str],
    is_strict: bool,
    options: dict[str, Any],
) -> dict[str, Any]:
    if rank is not None:
        # a forked process must not enter the parent's thread pool, and there is one process per core already
        torch.set_num_threads(1)
    try:
        extracted = extract_clip(row, **options)
    except MediaError as error:
        extracted = {**dict.fromkeys(columns), "problems": [{"kind": kind_of(error), "reason": str(error)}]}
    if is_strict:
        for problem in extracted["problems"]:
            refuse_clip(problem["kind"], row["clip_id"], problem["reason"])
    return extracted


def _usable(extracted: Dataset, split: str, source: ClipSource) -> Dataset:
    """Counts what the extraction found and drops the clips no model can use."""
    keep = []
    for index, (clip_id, problems) in enumerate(zip(extracted["clip_id"], extracted["problems"], strict=True)):
        for problem in problems:
            note_problem(source.report, split, problem["kind"], clip_id, problem["reason"])
        if not UNUSABLE & {problem["kind"] for problem in problems}:
            keep.append(index)
    extracted = extracted.remove_columns("problems")
    return extracted if len(keep) == len(extracted) else extracted.select(keep)


def note_problem(report: ClipReport, split: str, kind: str, clip_id: str, reason: str) -> None:
    """Adds what was met while a clip was read: of a missing one the file had been there."""
    if kind == "missing":
        report.lose(split, clip_id, reason)
    else:
        report.add(split, kind, clip_id, reason)
