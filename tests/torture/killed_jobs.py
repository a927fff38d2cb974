"""What is killed: each job does its work into a folder, and goes on with it when it is called again."""

from __future__ import annotations

import multiprocessing
import runpy
import sys
import time
from pathlib import Path

import datasets
import torch
from huggingface_hub import close_session, constants
from tiny_runs import make_model, make_monitor
from transformers.utils import hub as transformers_hub

from hf_emktd.benchmark import SUITES, Benchmark, Executor
from hf_emktd.benchmark.suites import EVENTS
from hf_emktd.data import feature_cache, features, load_clips
from hf_emktd.hub import DistillationSummary, ModelFacts, publish, push_to_hub, save_for_hub
from hf_emktd.models.cav_mae import CavMaeProcessor
from hf_emktd.training import MONITOR_FOLDER
from hub_server import WRITE_TOKEN

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
CLIPS_PER_FILE = 3
SAVE_STEPS = 2
QUIET = ["--report_to", "none", "--use_cpu", "--disable_tqdm", "true"]
STUDENT = ["--num_train_epochs", "8", "--per_device_train_batch_size", "4", "--eval_strategy", "epoch", *QUIET]
SAVED = ["--save_strategy", "steps", "--save_steps", str(SAVE_STEPS), "--resume_from_checkpoint", "last"]
ROWS = ("KD", "EM-KTD + KD")
REPO = "org/student"

extract_clip = features.extract_clip


def make_teacher(folder: Path, *, with_monitor: bool = True) -> Path:
    model = make_model(seed=1)
    model.save_pretrained(folder)
    CavMaeProcessor.from_config(model.config).save_pretrained(folder)
    if with_monitor:
        make_monitor(model).save_pretrained(folder / MONITOR_FOLDER)
    return folder


def make_student(folder: Path) -> Path:
    model = make_model(hidden_size=64)
    summary = DistillationSummary(student=ModelFacts("student", 1, 1, type(model).__name__))
    return save_for_hub(model, CavMaeProcessor.from_config(model.config), folder, summary)


def script(cache: Path, name: str, *options: str | Path) -> None:
    """`python scripts/NAME OPTIONS`."""
    datasets.config.HF_DATASETS_CACHE = cache
    sys.argv = [str(SCRIPTS / name), *map(str, options)]
    runpy.run_path(sys.argv[0], run_name="__main__")


def distil(cache: Path, teacher: Path, table: Path, folder: Path, *options: str) -> None:
    data = ["--teacher", teacher, "--dataset", table, "--output_dir", folder]
    script(cache, "distill.py", *data, "--save_total_limit", "2", *STUDENT, *SAVED, *options)


def train_monitor(cache: Path, teacher: Path, table: Path, folder: Path) -> None:
    data = ["--teacher", teacher, "--dataset", table, "--output_dir", folder, "--save_total_limit", "1"]
    script(cache, "train_monitor.py", *data, "--min_steps", "24", "--num_train_epochs", "1", *QUIET, *SAVED)


def cache_teacher(cache: Path, teacher: Path, table: Path, folder: Path) -> None:
    data = ["--teacher", teacher, "--dataset", table, "--output_dir", folder]
    script(cache, "cache_teacher.py", *data, "--views", "3", "--batch_size", "2", "--shard_rows", "3")


def export(cache: Path, student: Path, folder: Path) -> None:
    script(
        cache,
        "export.py",
        "--model",
        student,
        "--output_dir",
        folder,
        "--format",
        "torch-export",
        "--repetitions",
        "1",
    )


def extract(cache: Path, table: Path, workers: int, counted: Path) -> None:
    """Features of all clips, three in a file, each clip slowly and noted in `counted`."""
    datasets.config.HF_DATASETS_CACHE = cache
    feature_cache.CLIPS_PER_FILE = CLIPS_PER_FILE
    features.extract_clip = CountedExtraction(counted)
    processor = CavMaeProcessor.from_config(make_model().config)
    features.extract_features(load_clips(str(table)), processor, num_frames=1, num_proc=workers)


class CountedExtraction:
    def __init__(self, counted: Path) -> None:
        self.counted = counted

    def __call__(self, row, **options):
        torch.set_num_threads(1)
        time.sleep(0.02)
        content = extract_clip(row, **options)
        with open(self.counted, "a") as file:
            file.write(f"{row['clip_id']}\n")
        return content


def benchmark(cache: Path, teacher: Path, table: Path, folder: Path) -> None:
    datasets.config.HF_DATASETS_CACHE = cache
    executor = Executor(1, print)
    executor.context = multiprocessing.get_context("fork")  # this process computes nothing
    options = ["--num_train_epochs", "1", "--per_device_train_batch_size", "4", *QUIET]
    runs = Benchmark(
        folder,
        SCRIPTS,
        executor,
        student_options=options,
        data_options=["--dataset", str(table)],
        monitor_options=["--min_steps", "5", *QUIET],
        teacher=str(teacher),
    )
    rows = [row for row in SUITES[EVENTS]["paper"] if row.name in ROWS]
    runs.prepare_monitors(rows)
    runs.repeat(rows, seeds=1)
    assert not executor.failed


def push(url: str, student: Path) -> None:
    _speak_to(url)
    push_to_hub(student, REPO, token=WRITE_TOKEN)


def pushing(url: str, cache: Path, *options: str | Path) -> None:
    """A distillation that pushes."""
    _speak_to(url)
    publish.RETRY_SECONDS = (0.01, 0.01)
    script(cache, "distill.py", *options)


def _speak_to(url: str) -> None:
    constants.ENDPOINT, constants.HF_HUB_DISABLE_XET, constants.HF_HUB_OFFLINE = url, True, False
    transformers_hub._hf_api = None  # it remembers where another test of this process pushed to
    close_session()
