"""scripts/prepare_dataset.py: a table of clips becomes shards, here and on the Hub, and streams from there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from clip_files import write_clips
from script_runs import TOUCHTONE

from hf_emktd.data import ClipTable, write_shards

VERIFY = ["--verify", "true", "--output_dir"]
DATA = ["--dataset", "touchtone", "--dataset_options", TOUCHTONE]

# the Hub's address is read when huggingface_hub is imported, so all that speaks to it is another process
STREAM = """
import json
from hf_emktd.data import AugmentationArguments
from hf_emktd.training import DataArguments, open_clips
from transformers import AutoProcessor
import hf_emktd, sys
data = open_clips(DataArguments(dataset="tester/clips", streaming=True), AutoProcessor.from_pretrained(sys.argv[1]))
views = data.train_views(AugmentationArguments())
print(json.dumps([sorted(view["clip_id"] for view in views), len(data.split("validation")), data.label_names]))
"""


def test_needs_to_know_what_and_where_to(workplace):
    for options, message in (
        (["--output_dir", "x", "--processor", "y"], "--dataset is needed"),
        ([*DATA, "--output_dir", "x"], "--processor is needed"),
        ([*DATA, "--processor", "y"], "--output_dir is needed"),
        ([*DATA, "--output_dir", "x", "--store", "media", "--push_to_hub", "true"], "needs --hub_dataset_id"),
        (["--dataset", "avsbench", "--output_dir", "x", "--store", "media"], "has masks"),
    ):
        ended = workplace.run_here("prepare_dataset.py", *options)
        assert ended.status and message in ended.err


def test_shards_on_the_hub_are_streamed_from_there(workplace, teacher, hub, tmp_path):
    environment = hub.environment(tmp_path)
    push = ["--push_to_hub", "true", "--hub_dataset_id", "tester/clips", "--clips_per_shard", "16"]
    options = [*DATA, "--processor", teacher, "--output_dir", tmp_path / "shards", *push]
    ended = workplace.run("prepare_dataset.py", *options, environment=environment)
    assert ended.status == 0, ended.err
    assert "train: 40 clips in 3 shards" in ended.out and f"{hub.url}/datasets/tester/clips/commit/" in ended.out
    files = set(hub.files("tester/clips"))
    assert {"shards.json", "README.md", "data/train-00002-of-00003.parquet"} <= files and "clips.json" not in files
    streamed = subprocess.run(
        [sys.executable, "-c", STREAM, teacher], env=environment, capture_output=True, text=True, check=False
    )
    assert streamed.returncode == 0, streamed.stderr[-3000:]
    clip_ids, validation, labels = json.loads(streamed.stdout.splitlines()[-1])
    assert len(set(clip_ids)) == 40 and validation == 10 and len(labels) == 10


def test_damaged_shards_are_named(workplace, tmp_path):
    folder = tmp_path / "shards"
    write_shards(ClipTable(write_clips(tmp_path)), folder, store="media", clips_per_shard=20)
    assert workplace.run_here("prepare_dataset.py", *VERIFY, folder).status == 0
    (folder / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    ended = workplace.run_here("prepare_dataset.py", *VERIFY, folder)
    assert ended.status == 1 and "1 shards of" in ended.err and "data/train-00000-of-00001.parquet" in ended.err
    assert "has no shards.json" in workplace.run_here("prepare_dataset.py", *VERIFY, tmp_path).err
