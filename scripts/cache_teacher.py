"""Store what a teacher says of the training clips, so that students train at the price of plain training.

    python scripts/cache_teacher.py --teacher runs/teacher --output_dir runs/teacher-cache
    accelerate launch scripts/cache_teacher.py --teacher org/av-teacher --dataset clips.csv --views 8
    python scripts/cache_teacher.py --teacher runs/teacher --codec tokens
    python scripts/distill.py --teacher runs/teacher --teacher_cache runs/teacher-cache

Says what it will take before it starts. The same call goes on where it was interrupted, and adds views when it asks
for more of them; `--verify 64` computes as many views of a finished cache again. docs/teacher_cache.md says what is
stored and which students a cache serves.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from transformers import PreTrainedModel, set_seed

from hf_emktd.data.augmentation import AugmentationArguments
from hf_emktd.data.scene_augmentation import SceneAugmentationArguments
from hf_emktd.distillation import EntropyMonitor, LiveTeacher
from hf_emktd.distillation.teacher_precision import TEACHER_DTYPES
from hf_emktd.distillation.token_codes import CODECS, TokenCodec, TokenRelations
from hf_emktd.training import (
    MONITOR_FOLDER,
    CacheEstimate,
    CacheManifest,
    ClipData,
    DataArguments,
    EntropyMonitorArguments,
    TeacherCache,
    augmentation_for,
    build_student_config,
    cache_source,
    estimate_cache,
    find_monitor,
    load_model,
    load_monitor,
    open_clips,
    parse_arguments,
    plan_cache,
    student_processor,
    to_json,
    train_monitor,
    verify_cache,
    write_teacher_cache,
)
from hf_emktd.training.interruption import AGAIN, ending_in_one_line
from hf_emktd.training.process_group import end_process_group, run_launched
from hf_emktd.training.refusals import refusals_in_one_line

NO_MONITOR = "none"


@dataclass
class CacheArguments:
    """
    Whose signals are stored, and how.

    Raises:
        ValueError: without a teacher, for an unknown codec, or a number below its least.
    """

    teacher: str | None = field(default=None, metadata={"help": "Directory or Hub id of the teacher. Required."})
    output_dir: str = field(default="", metadata={"help": "Folder of the cache; by default runs/TEACHER-cache."})
    monitor: str | None = field(
        default=None,
        metadata={
            "help": "Directory or Hub id that holds entropy_monitor/; by default the teacher, or one is trained. "
            "'none' stores no entropies."
        },
    )
    views: int = field(
        default=4,
        metadata={"help": "Augmented views of each clip, which epochs show in turn. More can be added later."},
    )
    codec: str = field(
        default=TokenRelations.name,
        metadata={
            "help": "What is kept of the tokens: 'relations', how those of a clip lie to each other and their mean, "
            "which serves KTD, EM-KTD and the same between clips; 'tokens', all of them in half precision, which "
            "serves every objective but those on stages."
        },
    )
    max_error: float = field(
        default=TokenRelations.max_error,
        metadata={"help": "Of relations: root mean square deviation that cosines of a clip's tokens may have."},
    )
    max_rank: int = field(
        default=TokenRelations.max_rank,
        metadata={"help": "Of relations: most numbers a token may take, whether max_error holds or not."},
    )
    student_fields: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Those of distill.py, of students whose sound is shorter than the teacher's: audio_length=512. "
            "Other fields change no view."
        },
    )
    teacher_dtype: str = field(
        default="auto",
        metadata={"help": f"What the teacher computes with, as in distill.py: {', '.join(TEACHER_DTYPES)}."},
    )
    seed: int = field(default=0, metadata={"help": "Decides the views."})
    batch_size: int = field(default=32, metadata={"help": "Clips per forward pass of the teacher."})
    shard_rows: int = field(default=512, metadata={"help": "Clips in a file; what a killed run may lose."})
    num_workers: int = field(default=0, metadata={"help": "Processes of each rank that make views."})
    verify: int = field(default=0, metadata={"help": "Write nothing; compute so many views of the cache again."})

    def __post_init__(self) -> None:
        if self.teacher is None:
            raise ValueError("--teacher is needed: the directory or Hub id of a trained teacher")
        if self.codec not in CODECS:
            raise ValueError(f"unknown codec {self.codec!r}; known are {', '.join(CODECS)}")
        for name, least in (("views", 1), ("batch_size", 1), ("shard_rows", 1), ("num_workers", 0), ("verify", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.teacher_dtype not in TEACHER_DTYPES:
            raise ValueError(f"teacher_dtype must be one of {', '.join(TEACHER_DTYPES)}, got {self.teacher_dtype!r}")
        self.make_codec()
        self.output_dir = self.output_dir or f"runs/{Path(self.teacher).name}-cache"

    def make_codec(self) -> TokenCodec:
        if self.codec == TokenRelations.name:
            return TokenRelations(self.max_error, self.max_rank)
        return CODECS[self.codec]()


def main() -> None:
    args, data_args, *augmentations = parse_arguments(
        (CacheArguments, DataArguments, AugmentationArguments, SceneAugmentationArguments), __doc__
    )
    state = PartialState()
    set_seed(args.seed)
    with refusals_in_one_line():
        teacher, processor = load_model(args.teacher)
        data_args.fill_from(teacher.config)
        if data_args.streaming:
            raise ValueError("a teacher cache numbers the clips, which a stream does not: leave --streaming out.")
        augmentation = augmentation_for(teacher.config, augmentations)
        student_config = build_student_config(teacher.config, overrides=args.student_fields)
        with state.main_process_first():
            data = open_clips(data_args, processor, model_config=teacher.config)
        monitor = get_monitor(args, teacher, data)
        views = data.train_views(augmentation, student_processor(processor, student_config), processor)
        source = cache_source(teacher, monitor, processor, data, views)
        live = LiveTeacher(teacher.to(state.device), monitor, TEACHER_DTYPES[args.teacher_dtype]).to(state.device)
        if args.verify:
            return verify(args, live, views, source)
        plan = plan_cache(
            live,
            views,
            source,
            args.make_codec(),
            num_views=args.views,
            seed=args.seed,
            batch_size=args.batch_size,
            shard_rows=args.shard_rows,
            teacher_dtype=args.teacher_dtype,
        )
    if state.is_main_process:
        print(expectation(plan, estimate_cache(plan, live, views), state.num_processes), flush=True)
    with refusals_in_one_line():
        manifest = write_teacher_cache(args.output_dir, plan, live, views, args.num_workers)
    if state.is_main_process:
        print(summary(args.output_dir, manifest))


def get_monitor(args: CacheArguments, teacher: PreTrainedModel, data: ClipData) -> EntropyMonitor | None:
    """The monitor that was named, the one at hand, or one trained now into the cache's folder."""
    if args.monitor == NO_MONITOR:
        return None
    if args.monitor is not None:
        return load_monitor(args.monitor)
    monitor = find_monitor(args.teacher, Path(args.output_dir))
    if monitor is None:
        folder = str(Path(args.output_dir) / MONITOR_FOLDER)
        monitor = train_monitor(teacher, data, EntropyMonitorArguments(output_dir=folder, seed=args.seed))
    return monitor


def expectation(manifest: CacheManifest, estimate: CacheEstimate, processes: int) -> str:
    """What it will take."""
    rows = manifest.num_clips * manifest.num_views
    minutes = rows * estimate.row_seconds / processes / 60
    errors = ", ".join(f"{branch} {error:.4f}" for branch, error in estimate.errors.items())
    bound = f"; the bound is {manifest.codec['max_error']:g}" if "max_error" in manifest.codec else ""
    return (
        f"{manifest.num_clips:,} clips x {manifest.num_views} views: about {rows * estimate.row_bytes / 1e6:,.1f} MB "
        f"({estimate.row_bytes / 1e3:.1f} kB each) and {minutes:,.1f} minutes. Cosines between tokens deviate by "
        f"{errors} (root mean square{bound})."
    )


def summary(folder: str, manifest: CacheManifest) -> str:
    """What was written, as JSON."""
    rows = manifest.num_clips * manifest.num_views
    facts = {"teacher_cache": folder, "clips": manifest.num_clips, "views": manifest.num_views}
    facts |= {"codec": manifest.codec, "bytes": manifest.num_bytes, "bytes_per_view": manifest.num_bytes / rows}
    return to_json(facts | {"cosine_errors": manifest.errors})


def verify(args: CacheArguments, live: LiveTeacher, views, source) -> None:
    """Ends the program with status 1 if a view of the cache is not what the teacher says of it."""
    cache = TeacherCache(args.output_dir)
    cache.check_source(source)
    wrong = verify_cache(cache, live, views, args.verify)
    if wrong:
        sys.exit(
            "\n".join([*wrong, f"{len(wrong)} of {args.verify} views of {args.output_dir} are not the teacher's."])
        )
    print(f"{args.verify} views of {args.output_dir} are what the teacher says of them.")


if __name__ == "__main__":
    with ending_in_one_line(AGAIN):
        run_launched(main)
    end_process_group()
