"""Store what a teacher says of the training clips, so that students train at the price of plain training.

    python scripts/cache_teacher.py --teacher runs/teacher --output_dir runs/teacher_cache
    accelerate launch scripts/cache_teacher.py --teacher org/av-teacher --dataset clips.csv --views 4
    python scripts/distill.py --teacher runs/teacher --teacher_cache runs/teacher_cache

The same call goes on where it was interrupted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState

from hf_emktd.data.augmentation import AugmentationArguments
from hf_emktd.data.scene_augmentation import SceneAugmentationArguments
from hf_emktd.distillation import LiveTeacher
from hf_emktd.distillation.token_codes import CODECS
from hf_emktd.training import (
    MONITOR_FOLDER,
    DataArguments,
    EntropyMonitorArguments,
    augmentation_for,
    find_monitor,
    load_model,
    load_monitor,
    open_clips,
    parse_arguments,
    train_monitor,
)
from hf_emktd.training.process_group import end_process_group
from hf_emktd.training.refusals import refusals_in_one_line
from hf_emktd.training.teacher_cache import cache_source
from hf_emktd.training.teacher_cache_writer import write_teacher_cache


@dataclass
class CacheArguments:
    """
    Whose signals are stored, and how.

    Raises:
        ValueError: without a teacher, for an unknown codec, or a number below its least.
    """

    teacher: str | None = field(default=None, metadata={"help": "Directory or Hub id of the teacher. Required."})
    output_dir: str = field(default="", metadata={"help": "Folder of the cache; by default one under runs/."})
    monitor: str | None = field(
        default=None,
        metadata={
            "help": "Directory or Hub id that holds entropy_monitor/; by default the teacher, or one is trained. "
            "'none' stores no entropies."
        },
    )
    views: int = field(default=4, metadata={"help": "Augmented views of each clip, shown in turn by the epochs."})
    codec: str = field(default="tokens", metadata={"help": f"What is kept of the tokens: {', '.join(CODECS)}."})
    seed: int = field(default=0, metadata={"help": "Decides the views."})
    batch_size: int = field(default=32, metadata={"help": "Clips per forward pass of the teacher."})
    shard_rows: int = field(default=512, metadata={"help": "Clips in a file; what a killed run may lose."})
    num_workers: int = field(default=0, metadata={"help": "Processes of each rank that make views."})

    def __post_init__(self) -> None:
        if self.teacher is None:
            raise ValueError("--teacher is needed: the directory or Hub id of a trained teacher")
        if self.codec not in CODECS:
            raise ValueError(f"unknown codec {self.codec!r}; known are {', '.join(CODECS)}")
        for name in ("views", "batch_size", "shard_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        self.output_dir = self.output_dir or f"runs/{Path(self.teacher).name}-cache"


def main() -> None:
    args, data_args, *augmentations = parse_arguments(
        (CacheArguments, DataArguments, AugmentationArguments, SceneAugmentationArguments), __doc__
    )
    state = PartialState()
    with refusals_in_one_line():
        teacher, processor = load_model(args.teacher)
        data_args.fill_from(teacher.config)
        augmentation = augmentation_for(teacher.config, augmentations)
        with state.main_process_first():
            data = open_clips(data_args, processor, model_config=teacher.config)
    monitor = None if args.monitor == "none" else get_monitor(args, teacher, data)
    views = data.train_views(augmentation)
    live = LiveTeacher(teacher, monitor).to(state.device)
    manifest = write_teacher_cache(
        args.output_dir,
        live,
        views,
        cache_source(teacher, monitor, processor, data, views),
        CODECS[args.codec](),
        num_views=args.views,
        seed=args.seed,
        batch_size=args.batch_size,
        shard_rows=args.shard_rows,
        num_workers=args.num_workers,
    )
    if state.is_main_process:
        facts = {"cache": args.output_dir, "clips": manifest.num_clips, "views": manifest.num_views}
        print(json.dumps(facts, indent=2))


def get_monitor(args: CacheArguments, teacher, data):
    """The monitor that was named, the one at hand, or one trained now into the cache's folder."""
    if args.monitor is not None:
        return load_monitor(args.monitor)
    monitor = find_monitor(args.teacher, args.output_dir)
    if monitor is None:
        folder = str(Path(args.output_dir) / MONITOR_FOLDER)
        monitor = train_monitor(teacher, data, EntropyMonitorArguments(output_dir=folder, seed=args.seed))
    return monitor


if __name__ == "__main__":
    main()
    end_process_group()
