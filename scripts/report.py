"""One self-contained HTML page about a run: what was distilled from what, how it went, where the student differs.

    python scripts/report.py --run runs/student
    python scripts/report.py --run runs/student --teacher runs/teacher --max_clips 64
    python scripts/report.py --run runs/student --dataset vggsound --data_dir DIR --output student.html
    python scripts/report.py --run runs/teacher --no_clips

Learning curves of every loss part and branch weight, results and retention, size and latency, classes gained and lost,
entropies of the teacher's branches, Gram matrices of teacher and student, the most and the least faithful clips, or
masks over their frames. The page needs no network and no JavaScript. What is no longer there (teacher, monitor, clips)
is left out with its reason; --no_clips loads neither models nor clips and takes a second or two.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hf_emktd.hub.distillation_summary import write_whole
from hf_emktd.report import ReportOptions, make_report, read_run
from hf_emktd.training import DataArguments, parse_arguments
from hf_emktd.training.clip_data import TEST
from hf_emktd.training.refusals import refusals_in_one_line

OUTPUT_NAME = "report.html"


@dataclass
class ReportArguments:
    """
    Which run, what to load for its report, and where the page goes.

    Raises:
        ValueError: without a run, or for a number below 1.
    """

    run: str | None = field(default=None, metadata={"help": "output_dir of train_teacher.py or distill.py. Required."})
    teacher: str | None = field(
        default=None, metadata={"help": "Directory or Hub id of the teacher; by default the one the run names."}
    )
    monitor: str | None = field(
        default=None,
        metadata={
            "help": "Directory or Hub id that holds entropy_monitor/; by default the teacher's, then the run's."
        },
    )
    split: str = field(default=TEST, metadata={"help": "Whose clips are compared; without a test split validation's."})
    clips: bool = field(default=True, metadata={"help": "Load models and clips; else the run's own files must do."})
    max_clips: int = field(default=256, metadata={"help": "So many random clips of the split are compared at most."})
    batch_size: int = field(default=32, metadata={"help": "Clips per forward pass."})
    seed: int = field(default=0, metadata={"help": "Of the choice of clips."})
    output: str | None = field(
        default=None, metadata={"help": f"The page; by default {OUTPUT_NAME} in the run's folder."}
    )

    def __post_init__(self) -> None:
        if self.run is None:
            raise ValueError("--run is needed: the output_dir of a run of train_teacher.py or distill.py")
        for name in ("max_clips", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def options(self) -> ReportOptions:
        """What the library is told."""
        return ReportOptions(
            self.teacher, self.monitor, self.split, self.clips, self.max_clips, self.batch_size, self.seed
        )


def main() -> None:
    args, data_args = parse_arguments((ReportArguments, DataArguments), __doc__)
    with refusals_in_one_line():
        record = read_run(args.run)
    path = Path(args.output or Path(args.run, OUTPUT_NAME))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, make_report(record, args.options, data_args))
    print(path)


if __name__ == "__main__":
    main()
