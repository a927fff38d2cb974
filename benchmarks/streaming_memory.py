"""Memory of streaming 1,000 and 100,000 clips.

    OMP_NUM_THREADS=1 python benchmarks/streaming_memory.py

Each number of clips is streamed once in a process of its own, views included, from shards of features as a small model
reads them (64 x 64 spectrograms, ten pictures of 32 x 32). The shards of the larger set are the same few files under
further names, so that the disk holds them; nothing in reading knows that.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, List, Value
from PIL import Image

from hf_emktd import CavMaeConfig, CavMaeProcessor
from hf_emktd.data import AugmentationArguments, ClipTransform, ShardIndex, load_shards
from hf_emktd.data.clip_stream import ClipStream, Neighbours
from hf_emktd.data.shards import Shard, feature_settings
from hf_emktd.training.streamed_views import StreamedViews

CLASSES, CLIPS_PER_SHARD, DIFFERENT_SHARDS = 10, 250, 4
STATUS = Path("/proc/self/status")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", nargs="+", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--shuffle_buffer", type=int, default=256)
    parser.add_argument("--stream", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stream is not None:
        print(json.dumps(stream_all(args.stream, args.shuffle_buffer)))
        return
    print("| clips | size of the shards | peak memory | before the first clip | views a second |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for clips in args.clips:
            print(row(clips, write_set(Path(folder), clips), args.shuffle_buffer), flush=True)


def row(clips: int, folder: Path, shuffle_buffer: int) -> str:
    command = [sys.executable, __file__, "--stream", str(folder), "--shuffle_buffer", str(shuffle_buffer)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    megabytes = sum(shard.bytes for shard in load_shards(folder).splits["train"]) / 1e6
    peak, before = (found[name] / 1024 for name in ("peak", "before"))
    speed = found["views"] / found["seconds"]
    return f"| {found['views']:,} | {megabytes:,.0f} MB | {peak:,.0f} MiB | {before:,.0f} MiB | {speed:,.0f} |"


def processor() -> CavMaeProcessor:
    return CavMaeProcessor.from_config(CavMaeConfig(audio_length=64, num_mel_bins=64, image_size=32))


def write_set(folder: Path, clips: int) -> Path:
    """A data set of so many clips whose files are links to `DIFFERENT_SHARDS` ones."""
    for number in range(DIFFERENT_SHARDS):
        if not (folder / f"{number}.parquet").exists():
            write_shard(folder / f"{number}.parquet", np.random.default_rng(number))
    own = folder / str(clips)
    (own / "data").mkdir(parents=True)
    shards = []
    for number in range(clips // CLIPS_PER_SHARD):
        original = folder / f"{number % DIFFERENT_SHARDS}.parquet"
        os.link(original, own / "data" / f"{number}.parquet")
        shards.append(Shard(f"data/{number}.parquet", CLIPS_PER_SHARD, original.stat().st_size, ""))
    settings = feature_settings(processor(), num_frames=10, max_seconds=10.0)
    names = [str(label) for label in range(CLASSES)]
    ShardIndex("features", "parquet", names, {"train": shards}, settings, key="").save(own)
    return own


def write_shard(path: Path, random: np.random.Generator) -> None:
    label = ClassLabel(num_classes=CLASSES)
    columns = {"clip_id": Value("string"), "label": label, "fbank": Value("binary"), "frames": List(Value("binary"))}
    rows = [
        {
            "clip_id": f"{path.stem}-{number}",
            "label": number % CLASSES,
            "fbank": random.normal(-5, 4, (64, 64)).astype(np.float16).tobytes(),
            "frames": [jpeg(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(10)],
        }
        for number in range(CLIPS_PER_SHARD)
    ]
    Dataset.from_list(rows, Features(columns)).to_parquet(path, batch_size=16)


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def stream_all(folder: Path, shuffle_buffer: int) -> dict[str, float]:
    transform = ClipTransform(processor(), AugmentationArguments(), partners=Neighbours(CLASSES))
    views = StreamedViews(ClipStream(load_shards(folder), "train"), transform, shuffle_buffer)
    before, started = kilobytes("VmRSS"), time.process_time()
    drawn = sum(1 for _ in views)
    seconds = time.process_time() - started
    return {"views": drawn, "seconds": seconds, "before": before, "peak": kilobytes("VmHWM")}


def kilobytes(name: str) -> int:
    lines = dict(line.split(":", 1) for line in STATUS.read_text(encoding="ascii").splitlines())
    return int(lines[name].split()[0])


if __name__ == "__main__":
    main()
