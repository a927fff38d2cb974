"""Compare objectives for one teacher and one student: weights chosen on validation, then paired seeds on test.

    python benchmarks/compare_objectives.py --teacher runs/avdigits/teacher --output_dir runs/avdigits \\
        --student_fields modality_specific_depth=2 --num_train_epochs 10 --learning_rate 4e-3

Every method gets the same budget: one run for each of three values of its own option, judged on the validation split,
then one run a seed with the value chosen; with `--untuned` every method keeps its default. Runs are
scripts/distill.py, `--jobs` at a time on one thread each; a run whose results are there is not repeated, so an
interrupted comparison goes on where it stopped. Writes table.md, results.json and table.png. A teacher of masks is
compared by MJ and MF, with the two controls: the sound of another clip, and silence.
"""

from __future__ import annotations

import argparse
import json
import math
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


EVENT_METHODS = (
    Method("labels only", ("--objective", "none"), "--label_smoothing_factor", ("0", "0.1", "0.2")),
    Method("KD", ("--objective", "kd"), "--kd_weight", ("0.3", "1", "3")),
    Method("KTD + KD", ("--objective", "ktd", "kd"), "--ktd_weight", ("0.3", "1", "3")),
    Method("EM-KTD + KD", ("--objective", "em_ktd", "kd"), "--ktd_weight", ("0.3", "1", "3")),
)
MASK_METHODS = (
    Method("labels only", ("--objective", "none"), "--weight_decay", ("0.001", "0.01", "0.1")),
    Method("KD", ("--objective", "kd"), "--kd_weight", ("0.3", "1", "3")),
    Method("KTD", ("--objective", "ktd"), "--ktd_weight", ("0.3", "1", "3")),
    Method("EM-KTD", ("--objective", "em_ktd"), "--ktd_weight", ("0.3", "1", "3")),
    Method("EM-KTD + KD", ("--objective", "em_ktd", "kd"), "--ktd_weight", ("0.3", "1", "3")),
)


@dataclass(frozen=True)
class Contest:
    """What is compared for one kind of model: the methods, the metric that decides, and a second one."""

    methods: tuple[Method, ...]
    metric: str
    second: str

    @classmethod
    def of_teacher(cls, folder: str) -> Contest:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        if config["model_type"] == "avsegformer":
            return cls(MASK_METHODS, "MJ", "MF")
        return cls(EVENT_METHODS, "accuracy", "mAP")


@dataclass
class Comparison:
    """The runs of one comparison, in folders `<output_dir>/<method>/<value or seed>`."""

    contest: Contest
    output_dir: Path
    common: list[str]
    seeds: int
    jobs: int

    def tune(self) -> dict[str, str]:
        """The value of each method's option with the best result on validation."""
        folders = {(m, v): self.folder(m, f"tune_{v}") for m in self.contest.methods for v in m.values}
        self.run(
            {
                folder: [*method.options, method.tuned, value, "--seed", str(TUNING_SEED), "--split", "validation"]
                for (method, value), folder in folders.items()
            },
            "Tuning on validation",
        )
        metric = self.contest.metric
        return {m.name: max(m.values, key=lambda v: score(folders[m, v], metric)) for m in self.contest.methods}

    def repeat(self, chosen: dict[str, str]) -> dict[str, list[Path]]:
        """
        One folder a seed for each method, trained with the value chosen, or its default where none was; all methods of
        a seed before the next.
        """
        folders = {
            m.name: [self.folder(m, f"seed_{seed}") for seed in range(self.seeds)] for m in self.contest.methods
        }
        self.run(
            {
                folders[method.name][seed]: [
                    *method.options,
                    *([method.tuned, chosen[method.name]] if chosen else []),
                    "--seed",
                    str(seed),
                ]
                for seed in range(self.seeds)
                for method in self.contest.methods
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


def score(folder: Path, metric: str, condition: str = "both") -> float:
    return results(folder)["results"].get(condition, {}).get(metric, math.nan)


def summarise(contest: Contest, folders: dict[str, list[Path]], chosen: dict[str, str]) -> dict:
    """Per method: both metrics of each seed, paired differences to KD, controls; the teacher's from any run."""
    first = {name: [score(folder, contest.metric) for folder in paths] for name, paths in folders.items()}
    methods = {}
    for method in contest.methods:
        paths = folders[method.name]
        methods[method.name] = {
            "option": f"{method.tuned[2:]} {chosen[method.name]}" if chosen else "defaults",
            contest.metric: first[method.name],
            contest.second: [score(folder, contest.second) for folder in paths],
            "difference_to_kd": (np.array(first[method.name]) - np.array(first["KD"])).tolist(),
            "swapped_sound": [score(folder, contest.metric, "swapped_sound") for folder in paths],
            "silence": [score(folder, "mask_share", "silence") for folder in paths],
            "seconds": [results(folder)["seconds"] for folder in paths],
        }
    return {"teacher": results(folders["KD"][0])["teacher_results"], "methods": methods}


def format_table(contest: Contest, summary: dict) -> str:
    teacher = summary["teacher"]
    with_controls = "swapped_sound" in teacher
    header = ["method", "option", contest.metric, contest.second, "retention", "paired difference to KD"]
    header += [f"{contest.metric}, other sound", "claimed in silence"] if with_controls else []
    rows = [
        ["teacher", "", *(f"{teacher['both'][name]:.1%}" for name in (contest.metric, contest.second)), "100.0%", ""]
    ]
    if with_controls:
        rows[0] += [f"{teacher['swapped_sound'][contest.metric]:.1%}", f"{teacher['silence']['mask_share']:.2%}"]
    for name, row in summary["methods"].items():
        own, difference = np.array(row[contest.metric]), 100 * np.array(row["difference_to_kd"])
        paired = "" if name == "KD" else f"{difference.mean():+.1f} ± {difference.std(ddof=1):.1f}"
        cells = [f"{own.mean():.1%} ± {100 * own.std(ddof=1):.1f}", f"{np.mean(row[contest.second]):.1%}"]
        cells += [f"{own.mean() / teacher['both'][contest.metric]:.1%}", paired]
        if with_controls:
            cells += [f"{np.mean(row['swapped_sound']):.1%}", f"{np.mean(row['silence']):.2%}"]
        rows.append([name, row["option"], *cells])
    lines = [header, ["---", "---", *["---:"] * (len(header) - 2)], *rows]
    seeds = len(summary["methods"]["KD"]["seconds"])
    note = f"Means and standard deviations over {seeds} seeds; differences in points."
    return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), "", note])


def draw(contest: Contest, summary: dict, path: Path) -> None:
    """Every seed as a dot, the teacher as a line."""
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    names = list(summary["methods"])
    for index, name in enumerate(names):
        scores = 100 * np.array(summary["methods"][name][contest.metric])
        axes.plot(scores, [index] * len(scores), "o", color="tab:blue", alpha=0.6)
        axes.plot(scores.mean(), index, "|", color="black", markersize=18)
    axes.axvline(100 * summary["teacher"]["both"][contest.metric], color="tab:gray", linestyle="--", label="teacher")
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel=f"test {contest.metric} (%)")
    axes.invert_yaxis()
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="Directory of a trained teacher with its entropy monitor.")
    parser.add_argument("--output_dir", required=True, type=Path, help="Folder for the runs and the table.")
    parser.add_argument("--seeds", default=5, type=int, help="Paired seeds of each method.")
    parser.add_argument("--jobs", default=os.cpu_count() or 1, type=int, help="Runs at a time.")
    parser.add_argument("--untuned", action="store_true", help="Keep every method's default; no tuning runs.")
    args, distill_options = parser.parse_known_args()
    contest = Contest.of_teacher(args.teacher)
    common = ["--teacher", args.teacher, "--save_strategy", "no", "--modalities", "both", *distill_options]
    comparison = Comparison(contest, args.output_dir, common, args.seeds, args.jobs)
    chosen = {} if args.untuned else comparison.tune()
    summary = summarise(contest, comparison.repeat(chosen), chosen)
    (args.output_dir / "results.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    table = format_table(contest, summary)
    (args.output_dir / "table.md").write_text(table + "\n", encoding="utf-8")
    draw(contest, summary, args.output_dir / "table.png")
    print(table)


if __name__ == "__main__":
    main()
