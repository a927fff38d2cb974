"""Writes a teacher cache: one pass of the teacher over the views of the training clips, shard by shard."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.collators import AudioVisualCollator
from ..distillation.teacher import LiveTeacher, TeacherSignal
from ..distillation.token_codes import TokenCodec, cosine_errors
from ..hub.distillation_summary import write_whole
from .teacher_cache import ERRORS, MANIFEST_NAME, SHARDS_FOLDER, CacheManifest, Shard, differences, view_seeds
from .views import ClipViews

# rows that a reader of the Parquet files has to decode at once
ROW_GROUP = 64


def write_teacher_cache(
    folder: str | Path,
    teacher: LiveTeacher,
    views: ClipViews,
    source: dict[str, Any],
    codec: TokenCodec,
    *,
    num_views: int,
    seed: int = 0,
    batch_size: int = 32,
    shard_rows: int = 512,
    num_workers: int = 0,
) -> CacheManifest:
    """
    Writes what is missing of a cache in `folder`. The shards are shared out among the processes of the run.

    A shard appears under its name when it is whole, and depends on nothing but its clips: a killed run loses the one
    it was at, the next call goes on, and the result is that of a run that was never stopped.

    Args:
        source: [`~training.teacher_cache.cache_source`].
        codec: what is kept of the tokens.
        num_views: views of each clip.
        seed: of the views.
        batch_size: clips in a forward pass of the teacher.
        shard_rows: clips in a shard.
        num_workers: processes of each rank that make views.

    Raises:
        ValueError: if `folder` holds a cache of something else.
    """
    state = PartialState()
    folder = Path(folder)
    manifest = _planned(teacher, views, source, codec, num_views, seed, batch_size, shard_rows)
    done = _open(folder, manifest)
    missing = [shard for shard in manifest.planned if shard.name not in done]
    state.wait_for_everyone()  # all ranks have seen the same shards before the first writes one
    own = missing[state.process_index :: state.num_processes]
    for shard, rows in _computed(manifest, own, teacher, views, codec, num_workers):
        _write_shard(folder, shard, rows, manifest)
    state.wait_for_everyone()
    if state.is_main_process:
        _close(folder, manifest)
    state.wait_for_everyone()
    return CacheManifest.load(folder)


def _planned(
    teacher: LiveTeacher,
    views: ClipViews,
    source: dict[str, Any],
    codec: TokenCodec,
    num_views: int,
    seed: int,
    batch_size: int,
    shard_rows: int,
) -> CacheManifest:
    """The manifest of what is to be written, without a shard."""
    signal = _signal_of(teacher, AudioVisualCollator()([views[0, 0]]))
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
    )


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
    manifest: CacheManifest,
    shards: list[Shard],
    teacher: LiveTeacher,
    views: ClipViews,
    codec: TokenCodec,
    num_workers: int,
) -> Iterator[tuple[Shard, dict[str, list[Any]]]]:
    """Shard by shard its rows, by column."""
    batches = [
        [(clip, int(seeds[clip])) for clip in range(start, min(start + manifest.batch_size, shard.stop))]
        for shard in shards
        for seeds in [view_seeds(manifest.seed, shard.view, manifest.num_clips)]
        for start in range(shard.start, shard.stop, manifest.batch_size)
    ]
    loader = iter(DataLoader(views, batch_sampler=batches, collate_fn=_with_ids, num_workers=num_workers))
    keys = iter(batches)
    total = sum(shard.stop - shard.start for shard in shards)
    progress = tqdm(total=total, unit="view", disable=not PartialState().is_main_process)
    for shard in shards:
        rows: dict[str, list[Any]] = {name: [] for name in manifest.features()}
        while len(rows["clip"]) < shard.stop - shard.start:
            clip_ids, batch = next(loader)
            pairs = next(keys)
            rows["clip_id"] += clip_ids
            rows["clip"] += [clip for clip, _ in pairs]
            rows["view"] += [shard.view] * len(pairs)
            rows["view_seed"] += [view_seed for _, view_seed in pairs]
            for name, values in _encoded(_signal_of(teacher, batch), codec):
                rows[name] += values
            progress.update(len(pairs))
        yield shard, rows
    progress.close()


def _with_ids(views: list[dict[str, Any]]) -> tuple[list[str], dict[str, Tensor]]:
    return [view["clip_id"] for view in views], AudioVisualCollator()(views)


@torch.no_grad()
def _signal_of(teacher: LiveTeacher, batch: Mapping[str, Tensor]) -> TeacherSignal:
    device = next(teacher.parameters()).device
    return teacher(**{name: value.to(device) for name, value in batch.items()})


def _encoded(signal: TeacherSignal, codec: TokenCodec) -> Iterator[tuple[str, Iterable[Any]]]:
    """By column its values in the clips of a batch."""
    yield "logits", list(signal.logits.half().flatten(1).cpu().numpy())
    for branch, entropies in signal.entropies.items():
        yield f"{branch}_entropy", entropies.float().cpu().tolist()
    for branch, tokens in signal.tokens.items():
        codes = codec.encode(tokens)
        for name in codec.columns:
            yield f"{branch}_{name}", [code[name].cpu().numpy().tobytes() for code in codes]
        errors = [_errors(codec, clip, code) for clip, code in zip(tokens, codes, strict=True)]
        for name, values in zip(ERRORS, zip(*errors, strict=True), strict=True):
            yield f"{branch}_{name}", values


def _errors(codec: TokenCodec, tokens: Tensor, code: Mapping[str, Tensor]) -> tuple[float, ...]:
    decoded = codec.decode({name: value.unsqueeze(0) for name, value in code.items()})
    return tuple(error.item() for error in cosine_errors(tokens.unsqueeze(0), decoded))


def _write_shard(folder: Path, shard: Shard, rows: dict[str, list[Any]], manifest: CacheManifest) -> None:
    path = folder / SHARDS_FOLDER / shard.name
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    table = datasets.Dataset.from_dict(rows, features=manifest.features()).data.table
    pq.write_table(table, unfinished, row_group_size=ROW_GROUP, compression="zstd")
    content = unfinished.read_bytes()
    note = {"rows": len(rows["clip"]), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    note["errors"] = {branch: _summary(rows, branch, manifest.codec.get("max_error")) for branch in manifest.grids}
    os.replace(unfinished, path)
    write_whole(_note_of(folder, shard), json.dumps(note) + "\n")


def _summary(rows: dict[str, list[Any]], branch: str, bound: float | None) -> dict[str, float]:
    largest = {name: max(rows[f"{branch}_{name}"]) for name in ERRORS}
    beyond = 0 if bound is None else sum(error > bound for error in rows[f"{branch}_rms_error"])
    return largest | {"beyond": beyond}
