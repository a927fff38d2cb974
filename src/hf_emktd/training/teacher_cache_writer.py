"""Writes a teacher cache: one pass of the teacher over the views of the training clips, shard by shard."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from filelock import FileLock
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.collators import AudioVisualCollator
from ..data.processes import fork_without_garbage
from ..distillation.teacher import LiveTeacher, TeacherSignal
from ..distillation.token_codes import TokenCodec, cosine_errors
from ..whole_files import write_whole
from .finite_losses import check_finite
from .teacher_cache import (
    ERRORS,
    MANIFEST_NAME,
    SHARDS_FOLDER,
    CacheManifest,
    Shard,
    TeacherCache,
    differences,
    view_seeds,
)
from .views import ClipViews

LOCK_NAME = ".lock"
# rows that a reader of the Parquet files has to decode at once
ROW_GROUP = 64
# what half precision and another order of summation may change of logits and entropies, and of cosines
TOLERANCE, COSINE_TOLERANCE = 5e-3, 2e-3

Rows = dict[str, list[Any]]
Keys = list[tuple[int, int]]


def plan_cache(
    teacher: LiveTeacher,
    views: ClipViews,
    source: dict[str, Any],
    codec: TokenCodec,
    *,
    num_views: int,
    seed: int = 0,
    batch_size: int = 32,
    shard_rows: int = 512,
    teacher_dtype: str = "auto",
) -> CacheManifest:
    """
    The manifest of a cache that is not written yet.

    Args:
        source: [`~training.teacher_cache.cache_source`].
        codec: what is kept of the tokens.
        num_views: views of each clip.
        seed: of the views.
        batch_size: clips in a forward pass of the teacher.
        shard_rows: clips in a shard.
        teacher_dtype: what the teacher computes with, to be kept with the cache.
    """
    _, signal = _read(teacher, views, [(0, 0)])
    return CacheManifest(
        source=source,
        codec=codec.to_dict(),
        num_clips=len(views),
        num_views=num_views,
        seed=seed,
        shard_rows=shard_rows,
        batch_size=batch_size,
        logits=list(signal.logits.shape[1:]),
        grids={branch: [list(grid) for grid in signal.grids[branch]] for branch in signal.tokens},
        teacher_dtype=teacher_dtype,
    )


@dataclass(frozen=True)
class CacheEstimate:
    """
    What writing a cache will take, from a batch of its clips.

    Args:
        row_bytes: of a clip in one view.
        row_seconds: of a clip in one view, in this process.
        errors: by branch the mean over the clips of the root mean square deviation of the cosines.
    """

    row_bytes: float
    row_seconds: float
    errors: dict[str, float]


def estimate_cache(manifest: CacheManifest, teacher: LiveTeacher, views: ClipViews) -> CacheEstimate:
    """Computes the first batch twice, as `write_teacher_cache` would, and throws it away."""
    keys = [(clip, clip) for clip in range(min(manifest.batch_size, manifest.num_clips))]
    for _ in range(2):  # the first pays for what is set up once
        started = time.perf_counter()
        rows = _rows(manifest, 0, keys, *_read(teacher, views, keys))
        seconds = time.perf_counter() - started
    buffer = io.BytesIO()
    _write_table(rows, manifest, buffer)
    errors = {branch: sum(rows[f"{branch}_rms_error"]) / len(keys) for branch in manifest.grids}
    return CacheEstimate(buffer.tell() / len(keys), seconds / len(keys), errors)


def write_teacher_cache(
    folder: str | Path, manifest: CacheManifest, teacher: LiveTeacher, views: ClipViews, num_workers: int = 0
) -> CacheManifest:
    """
    Writes what is missing of a cache in `folder`. The shards are shared out among the processes of the run.

    A shard appears under its name when it is whole, and depends on nothing but its clips: a killed run loses the one
    it was at, the next call goes on, and the result is that of a run that was never stopped.

    Args:
        manifest: [`plan_cache`].
        num_workers: processes of each rank that make views.

    Raises:
        ValueError: if `folder` holds a cache of something else.
    """
    state = PartialState()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # a second run on the same folder waits, and then finds what the first has written
    with FileLock(folder / LOCK_NAME) if state.is_main_process else nullcontext():
        return _write_missing(folder, manifest, teacher, views, num_workers)


def _write_missing(
    folder: Path, manifest: CacheManifest, teacher: LiveTeacher, views: ClipViews, num_workers: int
) -> CacheManifest:
    state = PartialState()
    state.wait_for_everyone()  # until the main process has the folder for itself
    done = _open(folder, manifest)
    missing = [shard for shard in manifest.planned if shard.name not in done]
    state.wait_for_everyone()  # all ranks have seen the same shards before the first writes one
    own = missing[state.process_index :: state.num_processes]
    for shard, rows in _computed(manifest, own, teacher, views, num_workers):
        _write_shard(folder, shard, rows, manifest)
    state.wait_for_everyone()
    if state.is_main_process:
        _close(folder, manifest)
    state.wait_for_everyone()
    return CacheManifest.load(folder)


def verify_cache(cache: TeacherCache, teacher: LiveTeacher, views: ClipViews, count: int, seed: int = 0) -> list[str]:
    """Computes `count` random clips and views of a cache again; a line for each that is not what was stored."""
    random = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(cache.manifest.num_clips * cache.num_views, generator=random)[:count].tolist()
    stored = cache.teacher(teacher.config)
    wrong = []
    for row in tqdm(drawn, unit="view"):
        view, clip = divmod(row, cache.manifest.num_clips)
        _, live = _read(teacher, views, [(clip, cache.view_seeds([clip], [view])[0])])
        deviations = _deviations(live, stored(teacher_signal=cache.batch([clip], [view])))
        bound = max(cache.rows.with_format(None)[row][f"{branch}_rms_error"] for branch in live.tokens)
        if deviations[0] > TOLERANCE or deviations[1] > bound + COSINE_TOLERANCE:
            wrong.append(
                f"clip {clip}, view {view}: answers deviate by {deviations[0]:.3g}, cosines by {deviations[1]:.3g}"
            )
    return wrong


def _deviations(live: TeacherSignal, stored: TeacherSignal) -> tuple[float, float]:
    """Of logits, relative to the largest, and entropies; and of cosines, the largest of the branches."""
    logits = live.logits.float().cpu()
    answers = [(logits - stored.logits).abs().max() / logits.abs().max().clamp(min=1)]
    answers += [(value.cpu() - stored.entropies[branch]).abs().max() for branch, value in live.entropies.items()]
    cosines = [cosine_errors(tokens.cpu(), stored.tokens[branch])[1].max() for branch, tokens in live.tokens.items()]
    return max(answers).item(), max(cosines).item()


def _open(folder: Path, manifest: CacheManifest) -> dict[str, dict[str, Any]]:
    """
    The shards that the folder has, by name.

    Raises:
        ValueError: if they are of something else, or of more views.
    """
    (folder / SHARDS_FOLDER).mkdir(parents=True, exist_ok=True)
    if not (folder / MANIFEST_NAME).is_file():
        if PartialState().is_main_process:
            manifest.save(folder)
        return {}
    found = CacheManifest.load(folder)
    differing = list(differences(*(_identity(each) for each in (found, manifest))))
    if differing:
        raise ValueError(
            f"{folder} holds another teacher cache: {'; '.join(differing)}. Name another --output_dir, or remove it."
        )
    if found.num_views > manifest.num_views:
        raise ValueError(
            f"{folder} is a cache of {found.num_views} views, asked for are {manifest.num_views}. Views can be added, "
            "not taken away; a run may train on fewer epochs than there are views."
        )
    noted = found.shards | _notes(folder, manifest)
    return {name: note for name, note in noted.items() if (folder / SHARDS_FOLDER / name).is_file()}


def _identity(manifest: CacheManifest) -> dict[str, Any]:
    """All but what may change from one call to the next: shards are added, and views."""
    return {name: value for name, value in asdict(manifest).items() if name not in ("shards", "num_views")}


def _notes(folder: Path, manifest: CacheManifest) -> dict[str, dict[str, Any]]:
    """By name what was noted of shards that the manifest does not have yet."""
    notes = {shard.name: _note_of(folder, shard) for shard in manifest.planned}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in notes.items() if path.is_file()}


def _close(folder: Path, manifest: CacheManifest) -> None:
    """Writes the manifest of the whole cache, and leaves nothing beside it and the shards."""
    known = CacheManifest.load(folder).shards | _notes(folder, manifest)
    manifest.shards = {shard.name: known[shard.name] for shard in manifest.planned}
    manifest.save(folder)
    for leftover in (folder / SHARDS_FOLDER).glob(".*"):  # notes, and what a killed run was writing
        leftover.unlink()


def _note_of(folder: Path, shard: Shard) -> Path:
    """Where the checksum of a whole shard is kept until the manifest has them all."""
    return folder / SHARDS_FOLDER / f".{shard.name}.json"


def _computed(
    manifest: CacheManifest, shards: list[Shard], teacher: LiveTeacher, views: ClipViews, num_workers: int
) -> Iterator[tuple[Shard, Rows]]:
    """Shard by shard its rows, by column."""
    batches = [keys for shard in shards for keys in _batches(manifest, shard)]
    total = sum(map(len, batches))
    progress = tqdm(total=total, unit="view", desc="Teacher", disable=not PartialState().is_main_process)
    loader = DataLoader(views, batch_sampler=batches, collate_fn=_with_ids, num_workers=num_workers)
    with fork_without_garbage():
        loaded = iter(loader)
    for shard in shards:
        rows: Rows = {name: [] for name in manifest.features()}
        for keys in _batches(manifest, shard):
            clip_ids, batch = next(loaded)
            signal = _signal_of(teacher, batch)
            check_finite("the teacher's answer is", [signal.logits, *signal.tokens.values()], clip_ids)
            for name, values in _rows(manifest, shard.view, keys, clip_ids, signal).items():
                rows[name] += values
            progress.update(len(keys))
        yield shard, rows
    progress.close()


def _batches(manifest: CacheManifest, shard: Shard) -> Iterator[Keys]:
    """Clips and seeds of each forward pass for a shard."""
    seeds = view_seeds(manifest.seed, shard.view, manifest.num_clips).tolist()
    for start in range(shard.start, shard.stop, manifest.batch_size):
        yield [(clip, seeds[clip]) for clip in range(start, min(start + manifest.batch_size, shard.stop))]


def _read(teacher: LiveTeacher, views: ClipViews, keys: Keys) -> tuple[list[str], TeacherSignal]:
    """Names of some clips and the teacher's signal of their views."""
    clip_ids, batch = _with_ids(views.__getitems__(keys))
    return clip_ids, _signal_of(teacher, batch)


def _with_ids(views: list[dict[str, Any]]) -> tuple[list[str], dict[str, Tensor]]:
    return [view["clip_id"] for view in views], AudioVisualCollator()(views)


@torch.no_grad()
def _signal_of(teacher: LiveTeacher, batch: Mapping[str, Tensor]) -> TeacherSignal:
    device = next(teacher.parameters()).device
    return teacher(**{name: value.to(device) for name, value in batch.items()})


def _rows(manifest: CacheManifest, view: int, keys: Keys, clip_ids: list[str], signal: TeacherSignal) -> Rows:
    """The rows of a batch, by column."""
    clips, seeds = zip(*keys, strict=True)
    rows: Rows = {"clip_id": clip_ids, "clip": list(clips), "view": [view] * len(keys), "view_seed": list(seeds)}
    return rows | {name: list(values) for name, values in _encoded(signal, manifest.make_codec())}


def _encoded(signal: TeacherSignal, codec: TokenCodec) -> Iterator[tuple[str, Iterable[Any]]]:
    """By column its values in the clips of a batch."""
    yield "logits", signal.logits.half().flatten(1).cpu().numpy()
    for branch, entropies in signal.entropies.items():
        yield f"{branch}_entropy", entropies.float().cpu().tolist()
    for branch, tokens in signal.tokens.items():
        codes = codec.encode(tokens, signal.grids[branch])
        for name in codec.columns:
            yield f"{branch}_{name}", [code[name].cpu().numpy().tobytes() for code in codes]
        errors = [_errors(codec, clip, code) for clip, code in zip(tokens, codes, strict=True)]
        for name, values in zip(ERRORS, zip(*errors, strict=True), strict=True):
            yield f"{branch}_{name}", values


def _errors(codec: TokenCodec, tokens: Tensor, code: Mapping[str, Tensor]) -> tuple[float, ...]:
    decoded = codec.decode({name: value.unsqueeze(0) for name, value in code.items()})
    return tuple(error.item() for error in cosine_errors(tokens.unsqueeze(0), decoded))


def _write_table(rows: Rows, manifest: CacheManifest, file: Path | io.BytesIO) -> None:
    table: pa.Table = datasets.Dataset.from_dict(rows, features=manifest.features()).data.table
    # least and largest values of what is only bytes would be kept with every group of rows
    pq.write_table(table, file, row_group_size=ROW_GROUP, compression="zstd", write_statistics=False)


def _write_shard(folder: Path, shard: Shard, rows: Rows, manifest: CacheManifest) -> None:
    path = folder / SHARDS_FOLDER / shard.name
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write_table(rows, manifest, unfinished)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    content = unfinished.read_bytes()
    note = {"rows": len(rows["clip"]), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    note["errors"] = {branch: _summary(rows, branch, manifest.codec.get("max_error")) for branch in manifest.grids}
    os.replace(unfinished, path)
    write_whole(_note_of(folder, shard), json.dumps(note) + "\n")


def _summary(rows: Rows, branch: str, bound: float | None) -> dict[str, float]:
    largest = {name: max(rows[f"{branch}_{name}"]) for name in ERRORS}
    beyond = 0 if bound is None else sum(error > bound for error in rows[f"{branch}_rms_error"])
    return largest | {"beyond": beyond}
