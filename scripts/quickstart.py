"""The main job on the built-in miniature, in minutes on two CPU cores.

    python scripts/quickstart.py --output_dir quickstart

Makes the touchtone clips, trains a teacher and its entropy monitor, then three students of 6 % of its parameters: on
labels only, with logit distillation (KD), and with EM-KTD + KD. Prints one table, draws it, and runs the last student
on a clip. Every step is one of the other scripts; a step whose result is there already is not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from hf_emktd.data import load_clips

SCRIPTS = Path(__file__).resolve().parent
TEACHER = ["hidden_size=64", "num_attention_heads=2", "modality_specific_depth=3", "patch_size=8"]
INPUTS = ["audio_length=64", "num_mel_bins=64", "image_size=32"]
# A tone is its frequency: the official masks of 3/8 of all frequencies would hide it, so they are narrower here.
AUGMENTATION = ["--freq_mask_bins", "6", "--time_mask_frames", "6", "--mixup_probability", "0"]
TRAINING = ["--num_train_epochs", "20", "--per_device_train_batch_size", "64", "--save_strategy", "no"]
STUDENTS = {
    "labels only": ["--objective", "none"],
    "KD": ["--objective", "kd"],
    "EM-KTD + KD": ["--objective", "em_ktd", "kd"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="quickstart", type=Path, help="Folder for models, table and picture.")
    parser.add_argument("--seed", default=0, type=int, help="Seed of every training run.")
    args = parser.parse_args()
    started = time.perf_counter()
    teacher = args.output_dir / "teacher"
    seed = ["--seed", str(args.seed)]
    fields = ["--preset", "tiny", "--config_fields", *TEACHER, *INPUTS]
    recipe = ["--dataset", "touchtone", *AUGMENTATION, *TRAINING, *seed]
    step("train_teacher.py", teacher / "results.json", *fields, *recipe, "--learning_rate", "2e-3")
    step("train_monitor.py", teacher / "entropy_monitor" / "config.json", "--teacher", str(teacher), *seed)
    students = {name: args.output_dir / name.lower().replace(" + ", "_").replace(" ", "_") for name in STUDENTS}
    for name, folder in students.items():
        student = ["--teacher", str(teacher), "--student_fields", "modality_specific_depth=2"]
        step(
            "distill.py",
            folder / "results.json",
            *student,
            *TRAINING,
            *seed,
            "--learning_rate",
            "4e-3",
            *STUDENTS[name],
        )

    rows = table_rows(teacher, students)
    table = format_table(rows)
    (args.output_dir / "table.md").write_text(table + "\n", encoding="utf-8")
    draw(rows, args.output_dir / "table.png")
    print(f"\n{table}\n\n({args.output_dir}/table.md, table.png; {time.perf_counter() - started:.0f} s in all)\n")
    clip = load_clips("touchtone").splits["test"][7]
    print(f"A test clip, {clip['clip_id']}, and what the student makes of it:", flush=True)
    run("predict.py", clip["video"], "--model", str(students["EM-KTD + KD"]))


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
    ended = subprocess.run([sys.executable, str(SCRIPTS / script), *options], check=False)
    if ended.returncode:
        raise SystemExit(f"{script} ended with exit code {ended.returncode}")


def table_rows(teacher: Path, students: dict[str, Path]) -> list[dict]:
    """Name, size, accuracy, mAP, retention and training time of the teacher and each student, from their folders."""
    rows = []
    for name, folder in {"teacher": teacher, **students}.items():
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        size = json.loads((folder / "distillation.json").read_text(encoding="utf-8"))["student"]
        both = results["results"]["both"]
        rows.append({"name": name, **size, **both, "seconds": results["seconds"]} | {"name": name})
    for row in rows:
        row["retention"] = row["accuracy"] / rows[0]["accuracy"]
        row["share"] = row["parameters"] / rows[0]["parameters"]
    return rows


def format_table(rows: list[dict]) -> str:
    lines = [
        "| model | parameters | of the teacher | MMACs | accuracy | mAP | retention | training |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| {row['name']} | {row['parameters']:,} | {row['share']:.1%} | {row['macs'] / 1e6:.1f} "
            f"| {row['accuracy']:.1%} | {row['mAP']:.1%} | {row['retention']:.1%} | {row['seconds']:.0f} s |"
        )
    return "\n".join(lines)


def draw(rows: list[dict], path: Path) -> None:
    """Accuracy of each model as a bar, with its number of parameters."""
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    bars = axes.barh([row["name"] for row in rows], [100 * row["accuracy"] for row in rows], color="tab:blue")
    bars[0].set_color("tab:gray")
    labels = [f"{100 * row['accuracy']:.1f} % with {row['parameters']:,} parameters" for row in rows]
    axes.bar_label(bars, labels, label_type="center", color="white")
    axes.set(xlabel="test accuracy on touchtone (%)", xlim=(0, 100))
    axes.invert_yaxis()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
