"""What a training step costs: supervised, beside a live teacher, and with the teacher's signals from a cache.

    OMP_NUM_THREADS=2 python benchmarks/step_time.py

CAV-MAE base teaches tiny (192 wide), both of random weights, which are as fast as trained ones. The three steps take
turns, so that what else runs on the machine slows all of them; medians are printed. Views are made before: all three
need the same. The cached step reads its signals from disk and decodes them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from torch import nn

from hf_emktd import CavMaeConfig, CavMaeForAudioVisualClassification
from hf_emktd.data import AudioVisualCollator, AugmentationArguments, ClipTransform
from hf_emktd.distillation import (
    EntropyMonitor,
    EntropyMonitorConfig,
    EntropyMonitoredDistillation,
    LiveTeacher,
    LogitDistillation,
)
from hf_emktd.distillation.token_codes import TokenRelations
from hf_emktd.models.cav_mae import CavMaeProcessor
from hf_emktd.training import ClipViews, build_student_config
from hf_emktd.training.cached_views import CachedViews
from hf_emktd.training.teacher_cache import SHARDS_FOLDER, TeacherCache
from hf_emktd.training.teacher_cache_writer import plan_cache, write_teacher_cache

KINDS = ("supervised", "live teacher", "cached teacher")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="base", help="Of the teacher; the student is a quarter as wide.")
    parser.add_argument("--batch_size", type=int, default=4, help="Clips in a step.")
    parser.add_argument("--repeats", type=int, default=9, help="Steps of each kind.")
    parser.add_argument("--rank", type=int, default=64, help="Of the codes; no code of random weights meets a bound.")
    args = parser.parse_args()
    torch.manual_seed(0)
    config = CavMaeConfig.from_preset(args.preset)
    teacher = LiveTeacher(CavMaeForAudioVisualClassification(config), make_monitor(config))
    student = CavMaeForAudioVisualClassification(build_student_config(config)).train()
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "datasets"
        views = make_views(config, args.batch_size)
        codec = TokenRelations(max_error=1e-9, max_rank=args.rank)
        source = {"monitor": "random"}
        plan = plan_cache(teacher, views, source, codec, num_views=1, batch_size=args.batch_size)
        write_teacher_cache(folder, plan, teacher, views)
        size = sum(file.stat().st_size for file in (Path(folder) / SHARDS_FOLDER).iterdir()) / args.batch_size
        cached = CachedViews(views, TeacherCache(folder))
        seconds = measure(steps(student, teacher, cached, args.batch_size), args.repeats)
    print_table(seconds, args, size)


def make_monitor(config: CavMaeConfig) -> EntropyMonitor:
    return EntropyMonitor(EntropyMonitorConfig(branch_widths=dict(config.branch_widths), id2label=config.id2label))


def make_views(config: CavMaeConfig, count: int) -> ClipViews:
    """Views of noise."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, config.image_size, config.image_size, 3), np.uint8)
    fbanks = random.normal(-5, 4, (count, config.audio_length, config.num_mel_bins)).astype(np.float16)
    rows = {
        "clip_id": [str(index) for index in range(count)],
        "label": [index % config.num_labels for index in range(count)],
        "fbank": [fbank.tobytes() for fbank in fbanks],
        "frames": [[png(picture)] for picture in pixels],
    }
    transform = ClipTransform(CavMaeProcessor.from_config(config), AugmentationArguments.none())
    return ClipViews(datasets.Dataset.from_dict(rows), transform)


def png(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def steps(student: nn.Module, teacher: LiveTeacher, cached: CachedViews, count: int) -> dict[str, Callable[[], None]]:
    """By kind a whole training step on the same batch."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    objectives = [
        EntropyMonitoredDistillation.for_models(student.config, teacher.config, scale="none"),
        LogitDistillation(),
    ]
    clips = [*range(count)]
    batch = AudioVisualCollator()(ClipViews(cached.features, cached.transform).__getitems__([(c, 0) for c in clips]))
    reader = cached.cache.teacher(teacher.config)

    def step(signal_of: Callable[[], object] | None) -> None:
        inputs = {name: batch[name] for name in ("input_values", "pixel_values")}
        output = student(**inputs, output_tokens=signal_of is not None)
        losses = [nn.functional.cross_entropy(output.logits, batch["labels"])]
        if signal_of is not None:
            signal = signal_of()
            for objective in objectives:
                losses += objective(output, signal, batch["labels"]).values()
        torch.stack(losses).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    def from_cache():
        return reader(teacher_signal=cached.cache.batch(clips, [0] * count))

    ways = (None, lambda: teacher(**batch), from_cache)
    return {kind: lambda way=way: step(way) for kind, way in zip(KINDS, ways, strict=True)}


def measure(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each repeat, the first of which is thrown away."""
    seconds: dict[str, list[float]] = {kind: [] for kind in steps}
    for _ in range(repeats + 1):
        for kind, step in steps.items():
            started = time.perf_counter()
            step()
            seconds[kind].append(time.perf_counter() - started)
    return {kind: values[1:] for kind, values in seconds.items()}


def print_table(seconds: dict[str, list[float]], args: argparse.Namespace, size: float) -> None:
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    print(f"\nBatch {args.batch_size}, {torch.get_num_threads()} threads, {args.repeats} steps of each;", end=" ")
    print(f"codes of rank {args.rank}, {size / 1000:.0f} kB a clip and view.\n")
    print("| step | median seconds | of the supervised one | live over this |\n| --- | ---: | ---: | ---: |")
    for kind, value in medians.items():
        print(f"| {kind} | {value:.3f} | {value / medians[KINDS[0]]:.2f} | {medians[KINDS[1]] / value:.2f} |")


if __name__ == "__main__":
    main()
