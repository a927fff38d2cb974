"""Teacher caches that were edited, with or without the checksums."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_teacher_cache import data, write  # noqa: F401  data is a fixture

from hf_emktd.distillation.token_codes import PlainTokens
from hf_emktd.training.teacher_cache import MANIFEST_NAME, SHARDS_FOLDER, TeacherCache

SHARD = "view-000-clips-00000000-00000005.parquet"


@pytest.fixture(scope="module")
def original(tmp_path_factory, data) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("strange") / "cache"
    write(folder, data, PlainTokens())
    return folder


@pytest.fixture
def folder(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "cache"))


def read(folder: Path) -> dict:
    return json.loads((folder / MANIFEST_NAME).read_text())


def note(folder: Path, content: dict) -> None:
    (folder / MANIFEST_NAME).write_text(json.dumps(content))


@pytest.mark.parametrize(
    "fields",
    [
        {"num_clips": 10**18},
        {"num_clips": -12},
        {"num_clips": "12"},
        {"num_views": 0},
        {"shard_rows": 0},
        {"shard_rows": 1, "num_clips": 10**9},
        {"logits": [10**18]},
        {"logits": 3},
        {"grids": {"audio": [[10**9, 10**9, -1]]}},
        {"grids": {"../../etc": [[1, 1]]}},
        {"codec": {"name": "pickle"}},
        {"codec": {"name": "tokens", "path": "/etc/passwd"}},
        {"source": []},
        {"shards": {"../../../etc/passwd": {"rows": 1, "bytes": 1, "sha256": ""}}},
        {"shards": {SHARD: {"rows": 5, "bytes": "1", "sha256": None}}},
        {"format": 99},
        {"unknown": 1},
    ],
)
def test_a_manifest_that_no_cache_has(folder, fields):
    note(folder, read(folder) | fields)
    with pytest.raises(ValueError, match=rf"{MANIFEST_NAME} cannot be read: "):
        TeacherCache(folder)


@pytest.mark.parametrize("content", ["", "[]", "null", "{", '{"format": 1}', "\x00"])
def test_a_manifest_that_is_none(folder, content):
    (folder / MANIFEST_NAME).write_text(content)
    with pytest.raises(ValueError, match=rf"{MANIFEST_NAME} cannot be read: "):
        TeacherCache(folder)


def test_a_shard_that_was_edited_alone(folder):
    path = folder / SHARDS_FOLDER / SHARD
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"are missing or damaged: {SHARD}"):
        TeacherCache(folder)


def rewrite(folder: Path, change) -> None:
    """The first shard, with a checksum that says nothing is wrong."""
    path = folder / SHARDS_FOLDER / SHARD
    pq.write_table(change(pq.read_table(path)), path)
    content, manifest = path.read_bytes(), read(folder)
    manifest["shards"][SHARD] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    note(folder, manifest)


def with_column(name: str, values) -> object:
    def change(table: pa.Table) -> pa.Table:
        column = pa.array(values(table), table.schema.field(name).type)
        return table.set_column(table.column_names.index(name), name, column)

    return change


@pytest.mark.parametrize(
    "change",
    [
        with_column("logits", lambda table: [np.zeros(7, np.float16)] * len(table)),
        with_column("logits", lambda table: [np.zeros(2 + row % 3, np.float16) for row in range(len(table))]),
        with_column("audio_tokens", lambda table: [bytes(3)] * len(table)),
        with_column("audio_tokens", lambda table: [b""] * len(table)),
        with_column("audio_tokens", lambda table: [None] * len(table)),
        with_column("view_seed", lambda table: [None] * len(table)),
        lambda table: table.slice(0, 3),
        lambda table: table.drop_columns(["view_seed"]),
        lambda table: table.append_column("extra", pa.array(["x"] * len(table))),
        lambda table: table.set_column(0, "clip_id", pa.array([[1]] * len(table))),
    ],
    ids=["wide", "ragged", "odd bytes", "empty", "gaps", "no seeds", "few rows", "no column", "new column", "type"],
)
def test_a_shard_and_its_checksum_that_were_edited(folder, change):
    rewrite(folder, change)
    with pytest.raises(ValueError, match=f"are not what its {MANIFEST_NAME} says: "):
        TeacherCache(folder)


def test_a_shard_that_is_no_parquet(folder):
    path, manifest = folder / SHARDS_FOLDER / SHARD, read(folder)
    path.write_bytes(b"\x80\x04]q.")
    manifest["shards"][SHARD] |= {"bytes": 5, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    note(folder, manifest)
    with pytest.raises(ValueError, match=f"are not what its {MANIFEST_NAME} says: "):
        TeacherCache(folder)
