"""What a teacher says of views of the training clips, computed once: the folder it lies in, and how it is read."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import PreTrainedModel, ProcessorMixin

from ..data.features import input_parameters
from ..distillation.cached_teacher import CachedTeacher
from ..distillation.entropy_monitor import EntropyMonitor
from ..distillation.teacher import fingerprint
from ..distillation.token_codes import CLIP, CODECS, GRID, TOKEN, TokenCodec
from ..distillation.token_distillation import BRANCHES
from ..whole_files import sha256_of, write_whole
from .clip_data import TRAIN, ClipData
from .views import ClipViews

MANIFEST_NAME = "teacher_cache.json"
SHARDS_FOLDER = "signals"
FORMAT_VERSION = 2
# What no cache has: one that says so would have lists and arrays of these sizes made.
MAX_SIZE, MAX_SHARDS = 2**31, 10**6
# deviations of the cosines between a clip's tokens: the largest, and the root of the mean square
ERRORS = ("max_error", "rms_error")


@dataclass(frozen=True)
class Shard:
    """Rows `start` to `stop` of the clips in one view, a file of their own."""

    view: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"view-{self.view:03d}-clips-{self.start:08d}-{self.stop:08d}.parquet"


@dataclass
class CacheManifest:
    """
    What a teacher cache is of, `teacher_cache.json`.

    Args:
        source: whose signals of what they are, [`cache_source`]; a run must have the same.
        codec: `to_dict()` of the [`TokenCodec`].
        num_clips, num_views: of `num_views` views of each clip a row each, view by view.
        seed: decides the seeds of the views.
        shard_rows: clips in a shard.
        batch_size: clips in a forward pass of the teacher.
        logits: shape of one clip's.
        grids: by branch those of the signals' tokens.
        teacher_dtype: what the teacher computed with, a key of `TEACHER_DTYPES`.
        shards: by name of its file what is known of each: `rows`, `bytes`, `sha256`, and by branch the largest of its
            clips' [`ERRORS`] and how many clips are `beyond` the codec's bound.
        format: version of the layout.
    """

    source: dict[str, Any]
    codec: dict[str, Any]
    num_clips: int
    num_views: int
    seed: int
    shard_rows: int
    batch_size: int
    logits: list[int]
    grids: dict[str, list[list[int]]]
    teacher_dtype: str = "auto"
    shards: dict[str, dict[str, Any]] = field(default_factory=dict)
    format: int = FORMAT_VERSION

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """
        Raises:
            ValueError: if there is none, it is of another version, or was edited into something that no cache is.
        """
        path = Path(folder) / MANIFEST_NAME
        if not path.is_file():
            raise ValueError(
                f"{folder} is no teacher cache: it has no {MANIFEST_NAME}. Make one with cache_teacher.py."
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.get("format") != FORMAT_VERSION:
                raise ValueError(f"it has format {content.get('format')}, this version reads {FORMAT_VERSION}")
            manifest = cls(**content)
            manifest._check()
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} cannot be read: {error}. Write the cache again with cache_teacher.py."
            ) from error
        return manifest

    def _check(self) -> None:
        """Raises `ValueError`, or what Python does for another type, before anything is made of its sizes."""
        sizes = (self.num_clips, self.num_views, self.shard_rows, self.batch_size, *self.logits)
        sizes += tuple(side for grids in self.grids.values() for grid in grids for side in grid)
        if any(not isinstance(size, int) or not 0 < size <= MAX_SIZE for size in sizes):
            raise ValueError(f"its sizes are not all from 1 to {MAX_SIZE:,}")
        if self.num_clips // self.shard_rows * self.num_views > MAX_SHARDS:
            raise ValueError(f"it plans more than {MAX_SHARDS:,} shards")
        unknown = sorted(self.grids.keys() - set(BRANCHES)) + sorted(
            self.shards.keys() - {shard.name for shard in self.planned}
        )
        if unknown:
            raise ValueError(f"it names {', '.join(unknown[:3])}, which it does not plan")
        for note in self.shards.values():
            if not isinstance(note["bytes"], int) or not isinstance(note["sha256"], str):
                raise ValueError("it has shards without size and checksum")
        self.make_codec()
        self.has_entropies  # noqa: B018  asks for a key

    def save(self, folder: str | Path) -> None:
        write_whole(Path(folder) / MANIFEST_NAME, json.dumps(asdict(self), indent=1) + "\n")

    @property
    def has_entropies(self) -> bool:
        return self.source["monitor"] is not None

    def num_rows(self, branch: str, what: str) -> int:
        """Of a code's column that has a row for each token, grid or clip."""
        grids = self.grids[branch]
        return {TOKEN: sum(rows * columns for rows, columns in grids), GRID: len(grids), CLIP: 1}[what]

    @property
    def num_bytes(self) -> int:
        """Of all shards."""
        return sum(shard["bytes"] for shard in self.shards.values())

    @property
    def errors(self) -> dict[str, dict[str, float]]:
        """By branch the largest deviations of the cosines of all clips, and how many clips are `beyond` the bound."""
        noted = {branch: [shard["errors"][branch] for shard in self.shards.values()] for branch in self.grids}
        return {
            branch: {name: max(each[name] for each in errors) for name in ERRORS}
            | {"beyond": sum(each["beyond"] for each in errors)}
            for branch, errors in noted.items()
        }

    @property
    def planned(self) -> Iterator[Shard]:
        """All shards of a whole cache, in the order of their rows."""
        for view in range(self.num_views):
            for start in range(0, self.num_clips, self.shard_rows):
                yield Shard(view, start, min(start + self.shard_rows, self.num_clips))

    def make_codec(self) -> TokenCodec:
        constants = {name: value for name, value in self.codec.items() if name != "name"}
        return CODECS[self.codec["name"]](**constants)

    def features(self) -> datasets.Features:
        """Columns of a row: where it belongs, the teacher's answers, and by branch its entropy and its code."""
        scalars = {"clip_id": "string", "clip": "int64", "view": "int64", "view_seed": "int64"}
        columns: dict[str, Any] = {name: datasets.Value(dtype) for name, dtype in scalars.items()}
        columns["logits"] = datasets.List(datasets.Value("float16"))
        for branch in self.grids:
            if self.has_entropies:
                columns[f"{branch}_entropy"] = datasets.Value("float32")
            for name in self.make_codec().columns:
                columns[f"{branch}_{name}"] = datasets.Value("binary")
            for name in ERRORS:
                columns[f"{branch}_{name}"] = datasets.Value("float32")
        return datasets.Features(columns)


def cache_source(
    teacher: PreTrainedModel,
    monitor: EntropyMonitor | None,
    teacher_processor: ProcessorMixin,
    data: ClipData,
    views: ClipViews,
) -> dict[str, Any]:
    """What signals depend on beside the seeds of the views, as plain JSON values."""
    clips = [data.split(TRAIN)["clip_id"][:], data.split(TRAIN)["label"][:]]
    source = {
        "teacher": fingerprint(teacher),
        "monitor": None if monitor is None else fingerprint(monitor),
        "data": {
            "manifest": data.source.report.manifest_hash,
            "training_clips": hashlib.sha256(json.dumps(clips).encode()).hexdigest(),
            "num_frames": data.args.num_frames,
            "frame_size": data.args.frame_size,
        },
        "teacher_inputs": input_parameters(teacher_processor),
        "views": views.transform.settings,
    }
    return json.loads(json.dumps(source))  # as it is read back: lists, no tuples


def view_seeds(seed: int, view: int, num_clips: int) -> np.ndarray:
    """int64 `(num_clips,)`: the seeds of one view of all clips."""
    return np.random.default_rng([seed, view]).integers(2**63 - 1, size=num_clips)


class TeacherCache:
    """
    A teacher cache, to be read from.

    Args:
        folder: of a whole cache.

    Raises:
        ValueError: if there is none, or a shard is missing or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = CacheManifest.load(folder)
        self.codec = self.manifest.make_codec()
        shards = list(self.manifest.planned)
        missing = [shard.name for shard in shards if shard.name not in self.manifest.shards]
        if missing:
            raise ValueError(
                f"{folder} is not finished, {len(missing)} of {len(shards)} shards are missing. The same call of "
                "cache_teacher.py goes on with it."
            )
        check_shards(self.folder, self.manifest)
        files = [str(self.folder / SHARDS_FOLDER / shard.name) for shard in shards]
        try:
            self.rows = datasets.Dataset.from_parquet(files, features=self.manifest.features()).with_format("arrow")
            self._check_rows()
        except (datasets.exceptions.DatasetsError, pa.ArrowException, ArithmeticError, TypeError, ValueError) as error:
            raise ValueError(
                f"the shards of the teacher cache {folder} are not what its {MANIFEST_NAME} says: {_cause(error)}. "
                "Write it again with cache_teacher.py."
            ) from error
        seeds = self.rows.data.column("view_seed").to_numpy()
        self._seeds = seeds.reshape(self.manifest.num_views, self.manifest.num_clips)

    def _check_rows(self) -> None:
        """Raises `ValueError` if a column has gaps, or cells of another size than the manifest's grids make them."""
        table, manifest = self.rows.data.table, self.manifest
        if len(table) != manifest.num_clips * manifest.num_views:
            raise ValueError(f"{len(table)} rows for {manifest.num_clips} clips in {manifest.num_views} views")
        gaps = [name for name in table.column_names if table[name].null_count]
        if gaps:
            raise ValueError(f"{', '.join(gaps[:3])} have gaps")
        widths = pc.min_max(pc.list_value_length(table["logits"])).as_py()
        if set(widths.values()) != {math.prod(manifest.logits)}:
            raise ValueError(f"logits of {widths['min']} to {widths['max']} numbers for {manifest.logits}")
        for branch in manifest.grids:
            for name, (dtype, what) in self.codec.columns.items():
                row = np.dtype(dtype).itemsize * manifest.num_rows(branch, what)
                sizes = pc.unique(pc.binary_length(table[f"{branch}_{name}"])).to_numpy(zero_copy_only=False)
                if (sizes % row).any() or not sizes.all():
                    raise ValueError(f"{branch}_{name} does not have {row} bytes, or a multiple, in each row")

    @property
    def num_views(self) -> int:
        return self.manifest.num_views

    def check_source(self, source: Mapping[str, Any]) -> None:
        """
        Raises `ValueError` naming what differs, if the cache is of something else than `source`. Which monitor is only
        asked of a run that has one.
        """
        ours = self.manifest.source if source["monitor"] is not None else self.manifest.source | {"monitor": None}
        differing = list(differences(ours, source))
        if differing:
            raise ValueError(
                f"the teacher cache {self.folder} is of something else: {'; '.join(differing)}. Write one for this "
                "run with cache_teacher.py, or leave out --teacher_cache."
            )

    def teacher(self, config: Any) -> CachedTeacher:
        """What takes the signals of a batch; `config` is the teacher's."""
        grids = {branch: tuple(map(tuple, grids)) for branch, grids in self.manifest.grids.items()}
        return CachedTeacher(config, grids, self.codec, self.manifest.has_entropies)

    def view_seeds(self, clips: Sequence[int], views: Sequence[int]) -> list[int]:
        """Of each clip and view the seed that makes it."""
        return [int(self._seeds[view, clip]) for clip, view in zip(clips, views, strict=True)]

    def signals(self, clips: Sequence[int], views: Sequence[int]) -> list[dict[str, Any]]:
        """
        Of each clip and view the teacher's `logits`, `entropies` by branch, and by branch the `codes`, as arrays of
        the dtypes they are stored in.
        """
        index = [view * self.manifest.num_clips + clip for clip, view in zip(clips, views, strict=True)]
        table = self.rows[index].combine_chunks()
        logits = table["logits"].combine_chunks().flatten().to_numpy().reshape(len(index), *self.manifest.logits)
        signals: list[dict[str, Any]] = [{"logits": row, "entropies": {}, "codes": {}} for row in logits]
        for branch in self.manifest.grids:
            self._add_branch(signals, table, branch)
        return signals

    def batch(self, clips: Sequence[int], views: Sequence[int]) -> dict[str, Any]:
        """The `teacher_signal` of a batch."""
        return stack_signals(self.signals(clips, views))

    def _add_branch(self, signals: list[dict[str, Any]], table: pa.Table, branch: str) -> None:
        if self.manifest.has_entropies:
            for signal, entropy in zip(signals, table[f"{branch}_entropy"].to_numpy(), strict=True):
                signal["entropies"][branch] = entropy
        for name, (dtype, what) in self.codec.columns.items():
            rows = self.manifest.num_rows(branch, what)
            for signal, cell in zip(signals, _cells(table[f"{branch}_{name}"]), strict=True):
                signal["codes"].setdefault(branch, {})[name] = cell.view(dtype).reshape(rows, -1)


def _cause(error: Exception) -> str:
    """`datasets` says itself only that something went wrong."""
    return " ".join(str(error.__cause__ or error).split())


def _cells(column: pa.ChunkedArray) -> Iterator[np.ndarray]:
    """The bytes of each cell, without a Python object for each on the way."""
    for chunk in column.chunks:
        _, offsets, data = chunk.buffers()
        ends = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        values = np.frombuffer(data, np.uint8)
        for start, end in itertools.pairwise(ends):
            yield values[start:end]


def stack_signals(values: list[Any]) -> Any:
    """Signals of clips as one of tensors; codes of different widths are continued with zeros."""
    if isinstance(values[0], dict):
        return {name: stack_signals([value[name] for value in values]) for name in values[0]}
    arrays = [np.asarray(value) for value in values]
    widths = [array.shape[-1] if array.ndim else 0 for array in arrays]
    if min(widths) == max(widths):
        return torch.from_numpy(np.stack(arrays))
    batch = np.zeros((len(arrays), *arrays[0].shape[:-1], max(widths)), arrays[0].dtype)
    for row, array, width in zip(batch, arrays, widths, strict=True):
        row[..., :width] = array
    return torch.from_numpy(batch)


def check_shards(folder: Path, manifest: CacheManifest) -> None:
    """
    Compares the files with their checksums. What was found whole is remembered in the `datasets` cache directory by
    size and time of change, and not read again.

    Raises:
        ValueError: naming the files that are missing or damaged.
    """
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]
    memory = Path(datasets.config.HF_DATASETS_CACHE) / "hf_emktd_teacher_caches" / f"{key}.json"
    known = json.loads(memory.read_text(encoding="utf-8")) if memory.is_file() else {}
    found = {name: _state_of(folder / SHARDS_FOLDER / name, note) for name, note in manifest.shards.items()}
    damaged = [
        name
        for name, state in found.items()
        if state is None or (known.get(name) != state and sha256_of(folder / SHARDS_FOLDER / name) != state[-1])
    ]
    if damaged:
        raise ValueError(
            f"{len(damaged)} of {len(found)} shards of the teacher cache {folder} are missing or damaged: "
            f"{', '.join(damaged[:3])}. Remove them if they are there, and write them again with the same call of "
            "cache_teacher.py."
        )
    memory.parent.mkdir(parents=True, exist_ok=True)
    write_whole(memory, json.dumps(found) + "\n")


def _state_of(path: Path, note: Mapping[str, Any]) -> list[Any] | None:
    """Size, time of change and what the checksum should be; `None` of a file that is missing or of another size."""
    if not path.is_file() or path.stat().st_size != note["bytes"]:
        return None
    return [note["bytes"], path.stat().st_mtime_ns, note["sha256"]]


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """Where two plain values, of a cache and of a run, differ: `views.seed is 0 in the cache and 1 here`."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for name in dict.fromkeys([*ours, *theirs]):
            yield from differences(ours.get(name), theirs.get(name), f"{path}.{name}" if path else name)
    elif ours != theirs:
        yield f"{path} is {ours} in the cache and {theirs} here"
