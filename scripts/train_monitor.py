"""Train the entropy monitor of a teacher: one linear probe per branch, before distillation.

    python scripts/train_monitor.py --teacher runs/teacher
    python scripts/train_monitor.py --teacher org/av-teacher --dataset clips.csv --output_dir runs/monitor
    python scripts/train_monitor.py --teacher runs/teacher --hidden_layers 1

The monitor goes to `entropy_monitor/` in the teacher's folder, where distill.py looks for it, or to --output_dir,
which distill.py takes as --monitor.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from transformers import set_seed

from hf_emktd.distillation.entropy_monitor import REGIONS
from hf_emktd.training import (
    MONITOR_FOLDER,
    DataArguments,
    EntropyMonitorArguments,
    load_model,
    open_clips,
    parse_arguments,
    train_monitor,
)
from hf_emktd.training.interruption import RESUME, ending_in_one_line
from hf_emktd.training.process_group import end_process_group, run_launched
from hf_emktd.training.refusals import refusals_in_one_line


@dataclass
class MonitorArguments:
    """
    Whose tokens are probed, and how.

    Raises:
        ValueError: without a teacher, or for other numbers of hidden layers than the paper's ablation.
    """

    teacher: str | None = field(default=None, metadata={"help": "Directory or Hub id of the teacher. Required."})
    hidden_layers: int = field(
        default=0, metadata={"help": "Hidden layers of each probe: 0, the paper's linear probe, or 1 or 2."}
    )
    entropy_over: str = field(
        default="frame",
        metadata={"help": "Of masks: mean entropy over the whole frame, or by the probe's foreground ('foreground')."},
    )

    def __post_init__(self) -> None:
        if self.teacher is None:
            raise ValueError("--teacher is needed: the directory or Hub id of a trained teacher")
        if self.hidden_layers not in (0, 1, 2):
            raise ValueError(f"hidden_layers must be 0, 1 or 2, got {self.hidden_layers}")
        if self.entropy_over not in REGIONS:
            raise ValueError(f"entropy_over must be one of {', '.join(REGIONS)}, got {self.entropy_over!r}")


def main() -> None:
    monitor_args, data_args, args = parse_arguments(
        (MonitorArguments, DataArguments, EntropyMonitorArguments), __doc__
    )
    set_seed(args.seed)
    with refusals_in_one_line():
        teacher, processor = load_model(monitor_args.teacher)
        data_args.fill_from(teacher.config)
        with args.main_process_first(desc="features"):
            data = open_clips(data_args, processor, model_config=teacher.config)
    args.output_dir = args.output_dir or default_output(monitor_args.teacher)
    monitor = train_monitor(
        teacher, data, args, hidden_layers=monitor_args.hidden_layers, entropy_over=monitor_args.entropy_over
    )
    if args.should_save:
        print(json.dumps({"monitor": args.output_dir, "statistics": monitor.config.statistics}, indent=2))


def default_output(teacher: str) -> str:
    """The teacher's own folder; for a teacher from the Hub a folder of its name under runs/."""
    folder = Path(teacher) if Path(teacher).is_dir() else Path("runs") / Path(teacher).name
    return str(folder / MONITOR_FOLDER)


if __name__ == "__main__":
    with ending_in_one_line(RESUME):
        run_launched(main)
    end_process_group()
