"""Does a training-free score rank students as training does? Spearman's and Kendall's coefficient, with intervals.

    python benchmarks/student_ranking.py --teacher runs/avdigits/teacher --output_dir runs/ranking --students 8 \\
        --num_train_epochs 10 --learning_rate 4e-3
    python benchmarks/student_ranking.py --teacher runs/teacher --output_dir runs/ranking --students 12 --seeds 3 \\
        --min_params 20k --max_params 40k --objective kd

Students of the teacher's family between --min_params and --max_params, as different as possible, are each distilled
by scripts/distill.py with all further options, `--jobs` at a time; a run whose results are there is not repeated, so
an interrupted benchmark goes on where it stopped. Their accuracy on the test split (MJ of masks), mean over --seeds,
is compared with what could be known before: DisWOT's score at random weights, its two terms, the same with the trained
teacher, parameters and multiply-accumulates. Parameters are the baseline to beat: of every other predictor the table
says by how much it beats them, with a 95 % interval over students drawn with replacement. Writes table.md, table.png
and results.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from tqdm import tqdm
from transformers import PreTrainedModel

from hf_emktd.benchmark.execution import threads_of_each
from hf_emktd.hub.distillation_summary import write_whole
from hf_emktd.metrics import count_macs, count_parameters
from hf_emktd.search import (
    TEACHER_WEIGHTS,
    Candidate,
    RankCorrelation,
    SearchArguments,
    list_candidates,
    parse_amount,
    rank_correlations,
    score_students,
    scoring_batches,
    spread,
)
from hf_emktd.search.candidates import on_meta
from hf_emktd.training import DataArguments, load_model, open_clips, task_of_config, to_json
from hf_emktd.training.clip_data import TRAIN

DISTILL = Path(__file__).resolve().parents[1] / "scripts" / "distill.py"
DATA_OPTIONS = ("dataset", "data_dir", "dataset_options")
BASELINE = "parameters"
DRAWN = (f"DisWOT, {TEACHER_WEIGHTS[0]} teacher", BASELINE, "MACs")


def main() -> None:
    args, distill_options = parse_options()
    teacher, processor = load_model(args.teacher)
    common = ["--teacher", args.teacher, "--save_strategy", "no", "--modalities", "both", *distill_options]
    common += [word for name in DATA_OPTIONS if getattr(args, name) for word in (f"--{name}", getattr(args, name))]
    check_options(args.output_dir, common)
    students = choose_students(teacher, args)
    metric = task_of_config(teacher.config).deciding_metrics[0]
    trained = train(students, args, common, metric)

    data_args = DataArguments(*(getattr(args, name) for name in DATA_OPTIONS))
    data_args.fill_from(teacher.config)
    data = open_clips(data_args, processor, model_config=teacher.config, only_split=TRAIN)
    predictors = predict(teacher, students, scoring_batches(data, SearchArguments()), args.initialisations)
    correlations = rank_correlations(predictors, [fmean(values) for values in trained], BASELINE)
    results = {
        "options": common,
        "initialisations": args.initialisations,
        "students": [student.student_fields for student in students],
        metric: trained,
        "predictors": predictors,
        "correlations": {name: {kind: asdict(one) for kind, one in own.items()} for name, own in correlations.items()},
    }
    table = "\n\n".join([correlation_table(correlations), student_table(students, predictors, trained, metric)])
    write_whole(args.output_dir / "results.json", to_json(results) + "\n")
    write_whole(args.output_dir / "table.md", table + "\n")
    draw(predictors, trained, correlations, metric, args.output_dir / "table.png")
    print(table)


def parse_options() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--teacher", required=True, help="Directory of a trained teacher with its entropy monitor.")
    parser.add_argument("--output_dir", required=True, type=Path, help="Folder for the runs and the table.")
    parser.add_argument("--students", default=8, type=int, help="Students that are trained.")
    parser.add_argument("--max_params", help="Parameters of the largest; by default a quarter of the teacher's.")
    parser.add_argument("--min_params", default="1", help="Parameters of the smallest.")
    parser.add_argument("--seeds", default=1, type=int, help="Runs of each student.")
    parser.add_argument("--initialisations", default=10, type=int, help="Random weights that the score is a mean of.")
    parser.add_argument("--jobs", default=os.cpu_count() or 1, type=int, help="Runs at a time.")
    for name in DATA_OPTIONS:
        parser.add_argument(f"--{name}", help="As for distill.py; by default what the teacher was trained on.")
    return parser.parse_known_args()


def check_options(folder: Path, common: list[str]) -> None:
    """Refuses to mix runs that were trained differently."""
    path = folder / "options.json"
    if path.is_file() and (stored := json.loads(path.read_text(encoding="utf-8"))) != common:
        raise SystemExit(f"{folder} holds runs with other options, {' '.join(stored)}; take another --output_dir.")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(common) + "\n", encoding="utf-8")


def choose_students(teacher: PreTrainedModel, args: argparse.Namespace) -> list[Candidate]:
    limit = parse_amount(args.max_params) if args.max_params else count_parameters(teacher) // 4
    candidates = [c for c in list_candidates(teacher.config) if parse_amount(args.min_params) <= c.parameters <= limit]
    if len(candidates) < args.students:
        raise SystemExit(f"only {len(candidates)} students have that many parameters; {args.students} are asked for.")
    return spread(candidates, args.students)


def name_of(student: Candidate) -> str:
    """A folder's name that only this student has."""
    digest = hashlib.sha256(" ".join(student.student_fields).encode()).hexdigest()
    return f"{student.parameters}-{digest[:8]}"


def train(
    students: Sequence[Candidate], args: argparse.Namespace, common: list[str], metric: str
) -> list[list[float]]:
    """The metric of each student by seed, of runs done now where they are missing; all students of a seed first."""
    runs = {
        args.output_dir / "students" / name_of(student) / f"seed_{seed}": (student, seed)
        for seed in range(args.seeds)
        for student in students
    }
    missing = {
        folder: [*common, "--student_fields", *student.student_fields, "--seed", str(seed)]
        for folder, (student, seed) in runs.items()
        if not (folder / "results.json").is_file()
    }
    with ThreadPoolExecutor(args.jobs) as pool:
        done = pool.map(lambda folder: distil(folder, missing[folder], args.jobs), missing)
        for _ in tqdm(done, total=len(missing), desc="Distil"):
            pass
    return [[metric_of(folder, metric) for folder, (each, _) in runs.items() if each is own] for own in students]


def distil(folder: Path, options: list[str], jobs: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(DISTILL), *options, "--output_dir", str(folder)]
    threads = {"OMP_NUM_THREADS": str(threads_of_each(jobs))}
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        ended = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **threads})
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {ended.returncode}; see {folder}/log.txt")


def metric_of(folder: Path, metric: str) -> float:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))["results"]["both"][metric]


def predict(
    teacher: PreTrainedModel,
    students: Sequence[Candidate],
    batches: list[dict[str, torch.Tensor]],
    initialisations: int,
) -> dict[str, list[float]]:
    """What is known of each student before training, the more the better."""
    predictors: dict[str, list[float]] = {}
    for weights in TEACHER_WEIGHTS:
        scores = score_students(
            teacher,
            [student.config for student in students],
            batches,
            initialisations=initialisations,
            teacher_weights=weights,
        )
        predictors[f"DisWOT, {weights} teacher"] = [score.total for score in scores]
        predictors[f"its clips, {weights} teacher"] = [fmean(score.clips) for score in scores]
        if scores[0].classes is not None:
            predictors[f"its classes, {weights} teacher"] = [fmean(score.classes) for score in scores]
    predictors[BASELINE] = [student.parameters for student in students]
    predictors["MACs"] = [count_macs(on_meta(student.config)) for student in students]
    return predictors


def correlation_table(correlations: dict[str, dict[str, RankCorrelation]]) -> str:
    lines = ["| predictor | Spearman | beyond parameters | Kendall | beyond parameters |", "| --- |" + " ---: |" * 4]
    for name, own in correlations.items():
        cells = [cell for each in own.values() for cell in cells_of(each, name == BASELINE)]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def cells_of(correlation: RankCorrelation, is_baseline: bool) -> list[str]:
    beyond = with_interval(correlation.beyond_baseline, correlation.beyond_baseline_interval)
    return [with_interval(correlation.value, correlation.interval), "" if is_baseline else beyond]


def with_interval(value: float, interval: tuple[float, float]) -> str:
    return f"{value:+.2f} [{interval[0]:+.2f}, {interval[1]:+.2f}]"


def student_table(
    students: Sequence[Candidate], predictors: dict[str, list[float]], trained: list[list[float]], metric: str
) -> str:
    header = ["student", BASELINE, "MACs", *(name for name in predictors if "teacher" in name), metric]
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    for index in sorted(range(len(students)), key=lambda i: -fmean(trained[i])):
        values = {name: column[index] for name, column in predictors.items()}
        cells = [" ".join(students[index].student_fields), f"{values[BASELINE]:,}", f"{values['MACs']:,}"]
        cells += [f"{value:.4g}" for name, value in values.items() if "teacher" in name]
        lines.append("| " + " | ".join([*cells, f"{fmean(trained[index]):.1%}"]) + " |")
    return "\n".join(lines)


def draw(
    predictors: dict[str, list[float]],
    trained: list[list[float]],
    correlations: dict[str, dict[str, RankCorrelation]],
    metric: str,
    path: Path,
) -> None:
    """Trained accuracy against the score, parameters and MACs."""
    figure = Figure(figsize=(4 * len(DRAWN), 3.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(DRAWN), sharey=True), DRAWN, strict=True):
        axes.plot(predictors[name], [100 * fmean(values) for values in trained], "o", alpha=0.7)
        spearman = correlations[name]["spearman"].value
        axes.set(xlabel=name, title=f"Spearman {spearman:+.2f}")
        if "DisWOT" not in name:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_minor_formatter(NullFormatter())
    figure.axes[0].set_ylabel(f"test {metric} (%)")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
