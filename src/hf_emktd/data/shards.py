"""Clips in shards: Parquet or WebDataset files with media or features embedded, and the index that describes them."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.utils import httpx
from tqdm.auto import tqdm

from ..whole_files import sha256_of
from .clip_source import ClipReport
from .clip_table import DELIMITERS
from .features import FEATURES_VERSION, input_parameters
from .media import PathLike

if TYPE_CHECKING:
    from ..models.cav_mae import CavMaeProcessor

__all__ = ["CONTAINERS", "STORES", "Shard", "ShardIndex", "feature_settings", "is_shards", "load_shards"]

INDEX_NAME = "shards.json"
INDEX_FORMAT = 1
STORES = ("features", "media")
CONTAINERS = ("parquet", "webdataset")
SHARD_FILE = re.compile(r"(?:\w[\w.-]*/)*\w[\w.-]*")
MAX_CLIPS = 2**31
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB = "hf://datasets/"


@dataclass(frozen=True)
class Shard:
    """
    One file of clips.

    Args:
        file (`str`): Its path below the folder of the index.
        clips (`int`): How many clips it holds.
        bytes (`int`): Its size.
        sha256 (`str`): Of its content.
    """

    file: str
    clips: int
    bytes: int
    sha256: str


@dataclass
class ShardIndex:
    """
    What a folder of shards holds, kept beside them as `shards.json`.

    Args:
        store (`str`): `"features"`, what [`~data.extract_features`] stores, or `"media"`, whole media files.
        container (`str`): `"parquet"` or `"webdataset"`.
        label_names (`list[str]`): Names by label id.
        splits (`dict[str, list[Shard]]`): The files of each split in order.
        settings (`dict`, *optional*): Of features, what made them, see [`feature_settings`].
        key (`str`): Identifies the clips and settings that the shards were written from.
        manifest_hash, rows, found, notes: Those of the [`ClipReport`] of their source.
        problems (`dict[str, dict[str, list[str]]]`): Names of missing and odd clips by split and kind.
        root (`str`): Folder, or address on the Hub, of the index.
    """

    store: str
    container: str
    label_names: list[str]
    splits: dict[str, list[Shard]]
    settings: dict[str, Any] | None
    key: str
    manifest_hash: str = ""
    rows: dict[str, int] = field(default_factory=dict)
    found: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    problems: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    root: str = ""

    @classmethod
    def from_json(cls, text: str, root: str) -> ShardIndex:
        """
        Raises:
            ValueError: if the text is no index, or one of a later version of this library.
        """
        try:
            content = json.loads(text)
            if content.pop("format") != INDEX_FORMAT:
                raise ValueError(f"its format is not {INDEX_FORMAT}; update hf_emktd, or write the shards anew")
            splits = {split: [Shard(**shard) for shard in shards] for split, shards in content.pop("splits").items()}
            index = cls(**{**content, "splits": splits, "root": root})
            index._check()
            return index
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{root}: {INDEX_NAME} is no index of clip shards ({error}).") from error

    def _check(self) -> None:
        if self.store not in STORES or self.container not in CONTAINERS:
            raise ValueError(f"it has {self.store!r} in {self.container!r}")
        if not isinstance(self.label_names, list) or not all(isinstance(name, str) for name in self.label_names):
            raise ValueError("its label_names are no list of names")
        for shard in (shard for shards in self.splits.values() for shard in shards):
            # neither a place elsewhere, nor a pattern or chain of addresses, which `datasets` would follow
            if SHARD_FILE.fullmatch(shard.file) is None:
                raise ValueError(f"{shard.file!r} is no name of a file below it")
            if not isinstance(shard.clips, int) or not 0 <= shard.clips <= MAX_CLIPS:
                raise ValueError(f"{shard.file} has {shard.clips!r} clips")

    def save(self, folder: PathLike) -> None:
        """Writes `shards.json`, which appears under its name only when it is complete."""
        content = {"format": INDEX_FORMAT, **asdict(self)}
        del content["root"]
        write_json(Path(folder) / INDEX_NAME, content)

    def files(self, split: str) -> list[str]:
        """Paths, or addresses on the Hub, of the shards of a split."""
        return [f"{self.root}/{shard.file}" for shard in self.splits[split]]

    def num_clips(self, split: str) -> int:
        """Clips of a split."""
        return sum(shard.clips for shard in self.splits[split])

    def damaged_files(self) -> list[str]:
        """
        Shards of a folder that are missing or are not what was written, by their checksums: all of them are read.

        Raises:
            ValueError: for shards on the Hub.
        """
        if self.root.startswith(HUB):
            raise ValueError(f"{self.root} lies on the Hub; download it, and verify the folder.")
        shards = [shard for shards in self.splits.values() for shard in shards]
        paths = {shard.file: Path(self.root, shard.file) for shard in shards}
        return [
            shard.file
            for shard in tqdm(shards, desc="Checksums", unit="shard")
            if not paths[shard.file].is_file() or sha256_of(paths[shard.file]) != shard.sha256
        ]

    def report(self) -> ClipReport:
        """The report of the source that the shards were written from, without reasons."""
        report = ClipReport(dict(self.rows), dict(self.found), dict(self.notes), self.manifest_hash)
        for split, kinds in self.problems.items():
            for kind, clip_ids in kinds.items():
                for clip_id in clip_ids:
                    report.add(split, kind, clip_id)
        return report

    def check_settings(self, processor: CavMaeProcessor) -> None:
        """
        Refuses features that were made for other inputs than `processor` makes.

        Raises:
            ValueError: naming what differs.
        """
        if self.store != "features":
            return
        stored, wanted = _flat(self.settings), _flat(feature_settings(processor, **_options(self.settings)))
        names = [name for name in sorted(stored | wanted) if stored.get(name) != wanted.get(name)]
        if names:
            told = "; ".join(f"{name}: {stored.get(name)} stored, {wanted.get(name)} wanted" for name in names[:4])
            raise ValueError(
                f"the features in {self.root} were made for another model ({told}). Write them anew with "
                "scripts/prepare_dataset.py --processor MODEL, or store media instead."
            )


def feature_settings(processor: CavMaeProcessor, num_frames: int, max_seconds: float) -> dict[str, Any]:
    """Everything that decides what is stored of a clip, as plain JSON values."""
    inputs = json.loads(json.dumps(input_parameters(processor)))
    return {"version": FEATURES_VERSION, "num_frames": num_frames, "max_seconds": max_seconds, "inputs": inputs}


def is_shards(name: PathLike) -> bool:
    """
    Whether this names a folder of shards or, where no such file exists, a repository of the Hub. A name with the
    ending of a table is one, there or not.
    """
    path = Path(name)
    if path.suffix.lower() in DELIMITERS:
        return False
    return (path / INDEX_NAME).is_file() or (not path.exists() and REPO_ID.fullmatch(str(name)) is not None)


def load_shards(name: PathLike, revision: str | None = None) -> ShardIndex:
    """
    The index of a folder of shards, or of a data set on the Hub; the shards themselves stay where they are.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it cannot be read.
    """
    path = Path(name) / INDEX_NAME
    if path.is_file():
        return ShardIndex.from_json(path.read_text(encoding="utf-8"), os.fspath(name))
    if Path(name).exists() or REPO_ID.fullmatch(str(name)) is None:
        raise FileNotFoundError(f"{name} has no {INDEX_NAME}: write the shards with scripts/prepare_dataset.py.")
    try:
        # one commit for the index and all that is streamed later, whatever is pushed in between
        commit = HfApi().dataset_info(str(name), revision=revision).sha
        index = hf_hub_download(str(name), INDEX_NAME, repo_type="dataset", revision=commit)
    except (httpx.HTTPError, OSError) as error:  # HfHubHTTPError is an HTTPError
        raise FileNotFoundError(
            f"{name} is neither a folder with {INDEX_NAME} nor, at {HfApi().endpoint}, a data set of clip shards that "
            f"can be read ({error}). Write the shards with scripts/prepare_dataset.py."
        ) from error
    return ShardIndex.from_json(Path(index).read_text(encoding="utf-8"), f"{HUB}{name}@{commit}")


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file whole or not at all."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
        unfinished = Path(folder) / path.name
        unfinished.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(unfinished, path)


def _options(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in ("num_frames", "max_seconds")}


def _flat(settings: dict[str, Any], prefix: Sequence[str] = ()) -> dict[str, Any]:
    flat = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, (*prefix, name))
        else:
            flat[".".join((*prefix, name))] = value
    return flat
