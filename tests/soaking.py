"""Long runs whose memory, open files and threads are watched, for the sample here and the hours' worth in torture."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from tiny_runs import make_trainer
from transformers import TrainerCallback, pipeline

from hf_emktd import CavMaeProcessor
from hf_emktd.data import write_clip
from tiny_classifier import make_classifier

WARM_UP = 0.25


@dataclass
class Usage:
    """What this process uses, by the number of steps it has made."""

    steps: list[int] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def measure(self, step: int) -> None:
        gc.collect()
        process = psutil.Process()
        self.steps.append(step)
        memory = process.memory_full_info()
        # what the kernel has swapped out is held as much as what is resident
        self.memory.append(memory.uss + getattr(memory, "swap", 0))
        self.files.append(process.num_fds())
        self.threads.append(process.num_threads())

    def settled(self, values: list[int]) -> np.ndarray:
        """Those after the first quarter, in which caches fill."""
        return np.array(values[int(WARM_UP * len(values)) :])

    def growth(self) -> float:
        """Bytes of this process's own memory that a step adds: the slope of a line through the measurements."""
        return float(np.polyfit(self.settled(self.steps), self.settled(self.memory), 1)[0])

    def assert_flat(self, bytes_a_step: float) -> None:
        assert self.growth() < bytes_a_step, (self.growth(), self.memory)
        for name in ("files", "threads"):
            used = self.settled(getattr(self, name))
            half = len(used) // 2
            assert used[half:].max() <= used[:half].max(), (name, used.tolist())


class Watch(TrainerCallback):
    def __init__(self, usage: Usage, every: int) -> None:
        self.usage, self.every = usage, every

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every == 0:
            self.usage.measure(state.global_step)


def soak_training(folder: Path, steps: int, every: int, **options) -> Usage:
    """A distillation that also evaluates and saves checkpoints."""
    options = {"save_strategy": "steps", "save_steps": steps // 5, "logging_steps": max(1, steps // 50)} | options
    options |= {"eval_strategy": "steps", "eval_steps": steps // 5, "per_device_train_batch_size": 4}
    trainer = make_trainer(folder, max_steps=steps, optim="adamw_torch", learning_rate=1e-4, **options)
    usage = Usage()
    trainer.add_callback(Watch(usage, every))
    trainer.train()
    return usage


def soak_pipeline(folder: Path, calls: int, every: int) -> Usage:
    """Clips with both senses, with one, and files that cannot be read, one after the other."""
    ask, items = _pipeline(folder), _items(folder)
    usage = Usage()
    for call in range(1, calls + 1):
        ask(items[call % len(items)])
        if call % every == 0:
            usage.measure(call)
    return usage


def _pipeline(folder: Path) -> Callable[[str], object]:
    model = make_classifier()
    model.save_pretrained(folder / "model")
    CavMaeProcessor.from_config(model.config).save_pretrained(folder / "model")
    answers = pipeline("audio-visual-classification", model=str(folder / "model"), device="cpu")
    return lambda item: answers(item, on_error="report", by_modality=True)


def _items(folder: Path) -> list[str]:
    pictures = np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3), np.uint8)
    tone = (0.3 * np.sin(np.arange(5120) / 8)).astype(np.float32)
    write_clip(folder / "both.mp4", pictures, 25, tone)
    write_clip(folder / "soundless.mp4", pictures, 25)
    write_clip(folder / "pictureless.mp4", None, 25, tone)
    (folder / "corrupt.mp4").write_bytes((folder / "both.mp4").read_bytes()[:700])
    names = ("both.mp4", "soundless.mp4", "pictureless.mp4", "corrupt.mp4", "missing.mp4")
    return [str(folder / name) for name in names]
