"""Complementarity of a teacher and a student: what their tokens share, and what the student's tell of the labels.

    python scripts/diagnose.py --teacher runs/teacher --student runs/student
    python scripts/diagnose.py --teacher runs/teacher --student runs/student --dataset clips.csv --gains gains.json
    python scripts/diagnose.py --teacher runs/teacher --student runs/picture_only \\
        --gains runs/benchmark/results.json --gain_rows "audio->visual=FD-CMKD, picture only"
    python scripts/diagnose.py --self_check

Estimates I(teacher tokens; student tokens) and I(student tokens; labels) for every pair of branches, by nearest
neighbours and by a learned bound, and says from which branches the Cross-modal Complementarity Hypothesis would
distil: where the former is larger. Writes diagnosis.json, diagnosis.md and diagnosis.png. With gains, by pair or from
the benchmark runner, it says how the advice compared with them. `--self_check` runs the estimators on cases in which
the truth is known, in some minutes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from hf_emktd.analysis import (
    Agreement,
    Check,
    Pair,
    Setting,
    ceiling,
    check_classes,
    check_gains,
    check_gaussians,
    check_uniforms,
    clip_views,
    compare_branches,
    compare_with_gains,
    complementarity_dict,
    complementarity_markdown,
    draw_complementarity,
    label_entropy,
    markdown_table,
    pair_name,
    pooled_tokens,
    read_gains,
)
from hf_emktd.hub.distillation_summary import write_whole
from hf_emktd.training import DataArguments, check_labels, load_model, open_clips, parse_arguments, to_json
from hf_emktd.training.clip_data import TEST
from hf_emktd.training.refusals import refusals_in_one_line

CLASSIFICATION = "audio-visual-classification"
FEWEST_CLIPS = 100


@dataclass
class DiagnosisArguments:
    """
    Whose tokens are compared, on how many clips, and where the answer goes.

    Raises:
        ValueError: without both models, unless it is a self-check, or for too small numbers.
    """

    teacher: str | None = field(default=None, metadata={"help": "Directory or Hub id of the teacher. Required."})
    student: str | None = field(default=None, metadata={"help": "Directory or Hub id of the student. Required."})
    split: str = field(default=TEST, metadata={"help": "Clips compared; on training clips all tell too much."})
    max_clips: int = field(default=4000, metadata={"help": "So many random clips of the split at most."})
    components: int = field(
        default=4, metadata={"help": "Principal components of each side for the nearest neighbours."}
    )
    gains: str | None = field(
        default=None,
        metadata={"help": 'JSON of measured gains by pair, {"audio->visual": 1.3}, or a benchmark\'s results.json.'},
    )
    gain_rows: list[str] = field(
        default_factory=list, metadata={"help": "PAIR=ROW for each row of results.json that distils a pair."}
    )
    self_check: bool = field(default=False, metadata={"help": "Only check the estimators on known cases."})
    batch_size: int = field(default=64, metadata={"help": "Clips per forward pass."})
    seed: int = field(default=0, metadata={"help": "Of the clips, the critics and the intervals."})
    output_dir: str | None = field(default=None, metadata={"help": "Folder; by default that of the student."})

    def __post_init__(self) -> None:
        if not self.self_check and (self.teacher is None or self.student is None):
            raise ValueError("--teacher and --student are needed: directories or Hub ids of trained models")
        if self.max_clips < FEWEST_CLIPS:
            raise ValueError(f"max_clips must be at least {FEWEST_CLIPS}, got {self.max_clips}")
        for name in ("components", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def main() -> None:
    args, data_args = parse_arguments((DiagnosisArguments, DataArguments), __doc__)
    output_dir = Path(args.output_dir or default_output(args))
    if args.self_check:
        self_check(output_dir, args.seed)
        return
    with refusals_in_one_line():
        gains = None if args.gains is None else read_gains(args.gains, args.gain_rows)
        tokens, labels, setting = read_tokens(args, data_args)
        if gains is not None:
            check_gains(gains, [pair_name(teacher, student) for teacher in tokens[0] for student in tokens[1]])
    pairs = list(
        tqdm(
            compare_branches(*tokens, labels, args.components, args.seed),
            desc="Pairs of branches",
            total=len(tokens[0]) * len(tokens[1]),
        )
    )
    agreement = None if gains is None else compare_with_gains(pairs, gains)
    save(output_dir, setting, pairs, agreement)


def default_output(args: DiagnosisArguments) -> str:
    """The student's own folder; for a student from the Hub a folder of its name under runs/."""
    if args.self_check:
        return "runs/self_check"
    return args.student if Path(args.student).is_dir() else str(Path("runs") / Path(args.student).name)


def read_tokens(
    args: DiagnosisArguments, data_args: DataArguments
) -> tuple[tuple[dict[str, np.ndarray], dict[str, np.ndarray]], np.ndarray, Setting]:
    """Pooled tokens of teacher and student on the same views of the same clips, and their labels."""
    teacher, teacher_processor = load_model(args.teacher)
    student, student_processor = load_model(args.student)
    if teacher.config.task != CLASSIFICATION:
        raise ValueError(
            f"{args.teacher} is for {teacher.config.task}: the hypothesis compares with the label of a clip, and a "
            "mask is none. Diagnose a teacher of events."
        )
    data_args.fill_from(teacher.config)
    data = open_clips(data_args, teacher_processor, model_config=teacher.config, only_split=args.split)
    check_labels(data, student.config)
    split = data.evaluation_split(args.split)
    views = [
        clip_views(data, split, args.max_clips, processor, args.seed)
        for processor in (teacher_processor, student_processor)
    ]
    if len(views[0]) < FEWEST_CLIPS:
        raise ValueError(f"split {split} has {len(views[0])} clips; estimates need {FEWEST_CLIPS}, better 1,000.")
    labels = np.array(views[0].with_format(None)["label"])
    tokens = (
        pooled_tokens(teacher, views[0], args.batch_size, "teacher"),
        pooled_tokens(student, views[1], args.batch_size, "student"),
    )
    names = {"teacher": args.teacher, "student": args.student, "dataset": data_args.dataset, "split": split}
    sizes = {"clips": len(labels), "components": args.components}
    return tokens, labels, Setting(**names, **sizes, label_entropy=label_entropy(labels), ceiling=ceiling(len(labels)))


def save(output_dir: Path, setting: Setting, pairs: list[Pair], agreement: Agreement | None) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    text = complementarity_markdown(setting, pairs, agreement)
    write_whole(output_dir / "diagnosis.md", text + "\n")
    write_whole(output_dir / "diagnosis.json", to_json(complementarity_dict(setting, pairs, agreement)) + "\n")
    draw_complementarity(pairs, agreement).savefig(output_dir / "diagnosis.png", dpi=150)
    print(f"\n{text}\n\n({output_dir}/diagnosis.json, diagnosis.md, diagnosis.png)")


def self_check(output_dir: Path, seed: int) -> None:
    """Prints and saves the table of true and estimated mutual information."""
    checks = list(
        tqdm(
            chain(check_gaussians(seed=seed), check_uniforms(seed=seed), check_classes(seed=seed)), desc="Known cases"
        )
    )
    text = f"True and estimated mutual information in nats.\n\n{checks_table(checks)}"
    output_dir.mkdir(parents=True, exist_ok=True)
    write_whole(output_dir / "self_check.md", text + "\n")
    write_whole(output_dir / "self_check.json", to_json([asdict(check) for check in checks]) + "\n")
    print(f"\n{text}\n\n({output_dir}/self_check.json, self_check.md)")


def checks_table(checks: list[Check]) -> str:
    estimators = list(checks[0].estimates)
    rows = [
        [
            check.case,
            check.parameter,
            f"{check.truth:.3f}",
            *(
                f"{check.estimates[name]:.3f} ± {check.deviations[name]:.3f} ({100 * (check.ratios[name] - 1):+.0f} %)"
                for name in estimators
            ),
        ]
        for check in checks
    ]
    return markdown_table(["case", "parameter", "truth", *estimators], rows, texts=2)


if __name__ == "__main__":
    main()
