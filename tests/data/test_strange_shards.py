"""Shards of strangers: an index that points elsewhere, members with names that lead out, files in place of clips."""

from __future__ import annotations

import json
import pickle
import shutil
import tarfile
from io import BytesIO
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clip_files import write_clips

from hf_emktd.data import ClipTable, load_shards, write_shards
from hf_emktd.data.clip_stream import ClipStream
from hf_emktd.models.cav_mae import CavMaeConfig, CavMaeProcessor

PROCESSOR = CavMaeProcessor.from_config(CavMaeConfig(num_mel_bins=16, audio_length=48, image_size=32))


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, Path]:
    table = write_clips(tmp_path_factory.mktemp("clips"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        folders = {name: tmp_path_factory.mktemp(name) for name in ("parquet", "webdataset")}
        for name, folder in folders.items():
            write_shards(ClipTable(table), folder, store="media", container=name, clips_per_shard=20)
    return folders


@pytest.fixture
def folders(originals, tmp_path, monkeypatch) -> dict[str, Path]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return {name: Path(shutil.copytree(folder, tmp_path / name)) for name, folder in originals.items()}


def shard_of(folder: Path) -> Path:
    return folder / load_shards(folder).splits["train"][0].file


@pytest.mark.parametrize(
    "file",
    [
        "../outside.parquet",
        "/etc/passwd",
        "data/../../outside.parquet",
        "data/*.parquet",
        "zip://inner::https://elsewhere/x.zip",
        "https://elsewhere/x.parquet",
        "data\\..\\x",
        ".hidden",
        "",
        7,
        None,
    ],
)
def test_an_index_that_points_elsewhere(folders, file):
    path = folders["parquet"] / "shards.json"
    content = json.loads(path.read_text())
    content["splits"]["train"][0]["file"] = file
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"shards\.json is no index of clip shards"):
        load_shards(folders["parquet"])


@pytest.mark.parametrize(
    "fields",
    [
        {"store": "pickle"},
        {"container": "pickle"},
        {"label_names": "bell"},
        {"label_names": [1]},
        {"splits": []},
        {"splits": {"train": [{"file": "a", "clips": -1, "bytes": 1, "sha256": ""}]}},
        {"splits": {"train": [{"file": "a"}]}},
        {"root": "/etc"},
        {"unknown": 1},
    ],
)
def test_an_index_of_other_fields(folders, fields):
    path = folders["parquet"] / "shards.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    if "root" in fields:
        assert load_shards(folders["parquet"]).root == str(folders["parquet"])
        return
    with pytest.raises(ValueError, match=r"shards\.json is no index of clip shards"):
        load_shards(folders["parquet"])


def stream(folder: Path) -> list[dict]:
    return list(ClipStream(load_shards(folder), "train", PROCESSOR, num_frames=2).rows())


def test_members_that_lead_out_are_written_nowhere(folders, tmp_path):
    """And of links, devices and pickles nothing is followed, opened or run."""
    path, marker = shard_of(folders["webdataset"]), tmp_path / "ran"
    with tarfile.open(path) as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive.getmembers()]
    bomb = pickle.dumps(type("Bomb", (), {"__reduce__": lambda self: (Path.touch, (marker,))})())
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(f"../../../{tmp_path}/escaped/{name}")
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
        for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "../x"), (tarfile.CHRTYPE, "")):
            member = tarfile.TarInfo("999999.video")
            member.type, member.linkname = kind, target
            archive.addfile(member)
    assert len(stream(folders["webdataset"])) == load_shards(folders["webdataset"]).num_clips("train")
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("888888.pickle")
        member.size = len(bomb)
        archive.addfile(member, BytesIO(bomb))
    with pytest.raises((ValueError, KeyError, TypeError)):
        stream(folders["webdataset"])
    assert not marker.exists() and not (tmp_path / "escaped").exists()


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        ("video", pa.array(["/etc/passwd"] * 12), "has no file in its column video"),
        ("video", pa.array([{"bytes": None, "path": "/etc/passwd"}] * 12), "has no file in its column video"),
        ("label", pa.array([10**6] * 12), "has label 1000000 of 3 label_names"),
        ("label", pa.array([-1] * 12), "has label -1 of 3 label_names"),
    ],
)
def test_cells_that_are_no_clips(folders, column, cells, message):
    path = shard_of(folders["parquet"])
    table = pq.read_table(path)
    table = table.set_column(table.column_names.index(column), column, cells.slice(0, len(table)))
    pq.write_table(table.replace_schema_metadata(None), path)
    with pytest.raises(ValueError, match=message):
        stream(folders["parquet"])
