"""Compare objectives for one teacher and one student: weights chosen on validation, then paired seeds on test.

    python benchmarks/compare_objectives.py --teacher runs/avdigits/teacher --output_dir runs/avdigits \\
        --student_fields modality_specific_depth=2 --num_train_epochs 10 --learning_rate 4e-3

Every method gets the same budget: one run for each of three values of its own option, judged on the validation split,
then one run a seed with the value chosen. Runs are scripts/distill.py, `--jobs` at a time on one thread each; a run
whose results are there is not repeated, so an interrupted comparison goes on where it stopped. Writes table.md,
results.json and table.png.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

DISTILL = Path(__file__).resolve().parents[1] / "scripts" / "distill.py"
TUNING_SEED = 1000


@dataclass(frozen=True)
class Method:
    """A row of the table: what is always passed to distill.py, and the option whose value is chosen on validation."""

    name: str
    options: tuple[str, ...]
    tuned: str
    values: tuple[str, ...]


METHODS = (
    Method("labels only", ("--objective", "none"), "--label_smoothing_factor", ("0", "0.1", "0.2")),
    Method("KD", ("--objective", "kd"), "--kd_weight", ("0.3", "1", "3")),
    Method("KTD + KD", ("--objective", "ktd", "kd"), "--ktd_weight", ("0.3", "1", "3")),
    Method("EM-KTD + KD", ("--objective", "em_ktd", "kd"), "--ktd_weight", ("0.3", "1", "3")),
)


@dataclass
class Comparison:
    """The runs of one comparison, in folders `<output_dir>/<method>/<value or seed>`."""

    output_dir: Path
    common: list[str]
    seeds: int
    jobs: int

    def tune(self) -> dict[str, str]:
        """The value of each method's option with the best validation accuracy."""
        folders = {(m, v): self.folder(m, f"tune_{v}") for m in METHODS for v in m.values}
        self.run(
            {
                folder: [*method.options, method.tuned, value, "--seed", str(TUNING_SEED), "--split", "validation"]
                for (method, value), folder in folders.items()
            },
            "Tuning on validation",
        )
        return {m.name: max(m.values, key=lambda v: accuracy(folders[m, v])) for m in METHODS}

    def repeat(self, chosen: dict[str, str]) -> dict[str, list[Path]]:
        """One folder a seed for each method, trained with the value chosen."""
        folders = {m.name: [self.folder(m, f"seed_{seed}") for seed in range(self.seeds)] for m in METHODS}
        self.run(
            {
                folder: [*method.options, method.tuned, chosen[method.name], "--seed", str(seed)]
                for method in METHODS
                for seed, folder in enumerate(folders[method.name])
            },
            "Seeds",
        )
        return folders

    def folder(self, method: Method, name: str) -> Path:
        return self.output_dir / method.name.lower().replace(" + ", "_").replace(" ", "_") / name

    def run(self, runs: dict[Path, list[str]], description: str) -> None:
        missing = {folder: options for folder, options in runs.items() if not (folder / "results.json").is_file()}
        with ThreadPoolExecutor(self.jobs) as pool:
            done = pool.map(self.run_one, missing, missing.values())
            for _ in tqdm(done, total=len(missing), desc=description):
                pass

    def run_one(self, folder: Path, options: list[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(DISTILL), *self.common, *options, "--output_dir", str(folder)]
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.jobs))}
        with open(folder / "log.txt", "w", encoding="utf-8") as log:
            ended = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **threads})
        if ended.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with exit code {ended.returncode}; see {folder}/log.txt")


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def accuracy(folder: Path, metric: str = "accuracy") -> float:
    return results(folder)["results"]["both"][metric]


def summarise(folders: dict[str, list[Path]], chosen: dict[str, str]) -> dict:
    """Per method: accuracy and mAP of each seed, paired differences to KD; the teacher's from any run."""
    teacher = results(folders["KD"][0])["teacher_results"]["both"]
    scores = {name: [accuracy(folder) for folder in paths] for name, paths in folders.items()}
    methods = {}
    for method in METHODS:
        paths, own = folders[method.name], np.array(scores[method.name])
        methods[method.name] = {
            "option": f"{method.tuned[2:]} {chosen[method.name]}",
            "accuracy": own.tolist(),
            "mAP": [accuracy(folder, "mAP") for folder in paths],
            "difference_to_kd": (own - np.array(scores["KD"])).tolist(),
            "seconds": [results(folder)["seconds"] for folder in paths],
        }
    return {"teacher": teacher, "methods": methods}


def format_table(summary: dict) -> str:
    teacher = summary["teacher"]
    lines = [
        "| method | chosen on validation | accuracy | mAP | retention | paired difference to KD |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        f"| teacher | | {teacher['accuracy']:.1%} | {teacher['mAP']:.1%} | 100.0% | |",
    ]
    for name, row in summary["methods"].items():
        own, difference = np.array(row["accuracy"]), 100 * np.array(row["difference_to_kd"])
        paired = "" if name == "KD" else f"{difference.mean():+.1f} ± {difference.std(ddof=1):.1f}"
        lines.append(
            f"| {name} | {row['option']} | {own.mean():.1%} ± {100 * own.std(ddof=1):.1f} | {np.mean(row['mAP']):.1%} "
            f"| {own.mean() / teacher['accuracy']:.1%} | {paired} |"
        )
    seeds = len(summary["methods"]["KD"]["accuracy"])
    return "\n".join([*lines, "", f"Means and standard deviations over {seeds} seeds; differences in points."])


def draw(summary: dict, path: Path) -> None:
    """Every seed as a dot, the teacher as a line."""
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    names = list(summary["methods"])
    for index, name in enumerate(names):
        scores = 100 * np.array(summary["methods"][name]["accuracy"])
        axes.plot(scores, [index] * len(scores), "o", color="tab:blue", alpha=0.6)
        axes.plot(scores.mean(), index, "|", color="black", markersize=18)
    axes.axvline(100 * summary["teacher"]["accuracy"], color="tab:gray", linestyle="--", label="teacher")
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel="test accuracy (%)")
    axes.invert_yaxis()
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="Directory of a trained teacher with its entropy monitor.")
    parser.add_argument("--output_dir", required=True, type=Path, help="Folder for the runs and the table.")
    parser.add_argument("--seeds", default=5, type=int, help="Paired seeds of each method.")
    parser.add_argument("--jobs", default=os.cpu_count() or 1, type=int, help="Runs at a time.")
    args, distill_options = parser.parse_known_args()
    common = ["--teacher", args.teacher, "--save_strategy", "no", "--modalities", "both", *distill_options]
    comparison = Comparison(args.output_dir, common, args.seeds, args.jobs)
    chosen = comparison.tune()
    summary = summarise(comparison.repeat(chosen), chosen)
    (args.output_dir / "results.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    table = format_table(summary)
    (args.output_dir / "table.md").write_text(table + "\n", encoding="utf-8")
    draw(summary, args.output_dir / "table.png")
    print(table)


if __name__ == "__main__":
    main()
