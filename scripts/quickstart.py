"""The main job on the built-in miniature, in minutes on two CPU cores.

    python scripts/quickstart.py --output_dir quickstart
    python scripts/quickstart.py --task segmentation --output_dir quickstart-segmentation

Makes the clips, trains a teacher and its entropy monitor, then three students of about 6 % of its size: on labels
only, with logit distillation (KD), and with EM-KTD + KD. Prints one table, draws it, and runs the last student on a
clip. Every step is one of the other scripts; a step whose result is there already is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from hf_emktd.data import load_clips, read_clip, write_clip
from hf_emktd.hub import draw_comparison, segment_clip
from hf_emktd.training import load_model

SCRIPTS = Path(__file__).resolve().parent
STUDENTS = {
    "labels only": ["--objective", "none"],
    "KD": ["--objective", "kd"],
    "EM-KTD + KD": ["--objective", "em_ktd", "kd"],
}


@dataclass(frozen=True)
class Recipe:
    """Options of the runs, as typed, and columns of the table for one task; the first metric decides."""

    dataset: str
    teacher: str
    student: str
    training: str
    metrics: tuple[str, str]
    size: str
    size_title: str


RECIPES = {
    "classification": Recipe(
        # A tone is its frequency: the official masks of 3/8 of all frequencies would hide it; these are narrower.
        dataset="--dataset touchtone --freq_mask_bins 6 --time_mask_frames 6 --mixup_probability 0",
        teacher="--preset tiny --learning_rate 2e-3 --config_fields hidden_size=64 num_attention_heads=2 "
        "modality_specific_depth=3 patch_size=8 audio_length=64 num_mel_bins=64 image_size=32",
        student="--learning_rate 4e-3 --student_fields modality_specific_depth=2",
        training="--num_train_epochs 20 --per_device_train_batch_size 64 --save_strategy no",
        metrics=("accuracy", "mAP"),
        size="parameters",
        size_title="parameters",
    ),
    "segmentation": Recipe(
        # Two of the five frames: a mask and a frame without one, which only the teacher says something about.
        dataset='--dataset touchtone_scenes --dataset_options {"num_kinds":4,"num_digits":[2,3]} '
        "--silence_probability 0.1",
        teacher="--preset b0 --num_train_epochs 26 --learning_rate 1e-3 --config_fields num_frames=2 image_size=64 "
        "mask_loss=dice_bce dropout=0 vision_drop_path_rate=0 vision_hidden_sizes=[32,64,96,128] "
        "vision_num_attention_heads=[1,2,3,4] vision_depths=[1,1,2,2] vision_mlp_ratios=[4,4,4,4] "
        "audio_channels=[8,16,32,32,32,32] audio_hidden_size=128 audio_embedding_size=64 hidden_size=32 "
        "num_attention_heads=4 norm_groups=4 encoder_layers=1 decoder_layers=1 query_layers=1 num_queries=8 "
        "feed_forward_size=64 query_feed_forward_size=64 mask_mlp_size=32",
        student="--num_train_epochs 10 --learning_rate 4e-3 --student_fields vision_hidden_sizes=[8,16,24,32] "
        "vision_depths=[1,1,1,1] vision_mlp_ratios=[4,4,4,4]",
        training="--per_device_train_batch_size 16 --save_strategy no",
        metrics=("MJ", "MF"),
        size="visual_parameters",
        size_title="parameters of the visual encoder",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="quickstart", type=Path, help="Folder for models, table and picture.")
    parser.add_argument("--task", default="classification", choices=list(RECIPES), help="Events or masks.")
    parser.add_argument("--seed", default=0, type=int, help="Seed of every training run.")
    args = parser.parse_args()
    started = time.perf_counter()
    recipe, teacher = RECIPES[args.task], args.output_dir / "teacher"
    students = {name: args.output_dir / name.lower().replace(" + ", "_").replace(" ", "_") for name in STUDENTS}
    train(recipe, teacher, students, ["--seed", str(args.seed)])

    rows = table_rows(recipe, teacher, students)
    table = format_table(recipe, rows)
    (args.output_dir / "table.md").write_text(table + "\n", encoding="utf-8")
    draw(recipe, rows, args.output_dir / "table.png")
    print(f"\n{table}\n\n({args.output_dir}/table.md, table.png; {time.perf_counter() - started:.0f} s in all)\n")
    if args.task == "classification":
        show_answer(students["EM-KTD + KD"])
    else:
        show_masks({"teacher": teacher, **students}, args.output_dir)


def train(recipe: Recipe, teacher: Path, students: dict[str, Path], seed: list[str]) -> None:
    """Teacher, monitor and students, each unless it is there."""
    common = [*recipe.training.split(), *seed]
    step("train_teacher.py", teacher / "results.json", *f"{recipe.dataset} {recipe.teacher}".split(), *common)
    step("train_monitor.py", teacher / "entropy_monitor" / "config.json", "--teacher", str(teacher), *seed)
    for name, folder in students.items():
        options = ["--teacher", str(teacher), *recipe.student.split(), *STUDENTS[name]]
        step("distill.py", folder / "results.json", *options, *common)


def show_answer(student: Path) -> None:
    """The student's answer on a clip of the test split."""
    clip = load_clips("touchtone").splits["test"][7]
    print(f"A test clip, {clip['clip_id']}, and what the student makes of it:", flush=True)
    run("predict.py", clip["video"], "--model", str(student))


def show_masks(models: dict[str, Path], output_dir: Path) -> None:
    """A scene of the test split as mp4, the overlays of the last student, and the masks of all models side by side."""
    data = json.loads((models["teacher"] / "config.json").read_text(encoding="utf-8"))["training_data"]
    scene = load_clips(data["dataset"], **data["options"]).splits["test"][7]
    video = output_dir / f"{scene['clip_id']}.mp4"
    frames = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in scene["frames"]])
    sound = read_clip(scene["audio"], read_video=False)
    write_clip(video, frames, 1, sound.waveform, sound.sampling_rate)
    run("predict.py", str(video), "--model", str(list(models.values())[-1]), "--output_dir", str(output_dir))
    masks = {"ground truth": np.stack([np.asarray(Image.open(path)) > 0 for path in scene["masks"]])}
    for name, folder in models.items():
        masks[name] = segment_clip(*load_model(str(folder)), video).masks
    draw_comparison(frames, masks).save(output_dir / "comparison.png")
    print(f"A test scene, {video.name}, with the masks of all models: {output_dir}/comparison.png")


def step(script: str, result: Path, *options: str) -> None:
    """Runs a script unless its result is there."""
    if result.is_file():
        print(f"{result} is there, {script} is not repeated", flush=True)
        return
    output_dir = result.parent
    print(f"\n== {script} -> {output_dir}", flush=True)
    run(script, *options, "--output_dir", str(output_dir))


def run(script: str, *options: str) -> None:
    """Runs a script; a failure ends this program, the script's own message is the last on the screen."""
    # threads that wait for each other by spinning slow a run down many times where the cores have other work
    waiting = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ
    ended = subprocess.run([sys.executable, str(SCRIPTS / script), *options], env=waiting, check=False)
    if ended.returncode:
        raise SystemExit(f"{script} ended with exit code {ended.returncode}")


def table_rows(recipe: Recipe, teacher: Path, students: dict[str, Path]) -> list[dict]:
    """Name, size, metrics, retention and training time of the teacher and each student, from their folders."""
    rows = []
    for name, folder in {"teacher": teacher, **students}.items():
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        size = json.loads((folder / "distillation.json").read_text(encoding="utf-8"))["student"]
        both = results["results"]["both"]
        rows.append({**size, **both, "seconds": results["seconds"], "name": name})
    for row in rows:
        row["retention"] = row[recipe.metrics[0]] / rows[0][recipe.metrics[0]]
        row["share"] = row[recipe.size] / rows[0][recipe.size]
    return rows


def format_table(recipe: Recipe, rows: list[dict]) -> str:
    first, second = recipe.metrics
    lines = [
        f"| model | {recipe.size_title} | of the teacher | MMACs | {first} | {second} | retention | training |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| {row['name']} | {row[recipe.size]:,} | {row['share']:.1%} | {row['macs'] / 1e6:.1f} "
            f"| {row[first]:.1%} | {row[second]:.1%} | {row['retention']:.1%} | {row['seconds']:.0f} s |"
        )
    return "\n".join(lines)


def draw(recipe: Recipe, rows: list[dict], path: Path) -> None:
    """The first metric of each model as a bar, with its size."""
    metric = recipe.metrics[0]
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    bars = axes.barh([row["name"] for row in rows], [100 * row[metric] for row in rows], color="tab:blue")
    bars[0].set_color("tab:gray")
    labels = [f"{100 * row[metric]:.1f} % with {row[recipe.size]:,} parameters" for row in rows]
    axes.bar_label(bars, labels, label_type="center", color="white")
    axes.set(xlabel=f"test {metric} on {recipe.dataset.split()[1]} (%)", xlim=(0, 100))
    axes.invert_yaxis()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
