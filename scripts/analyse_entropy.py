"""Analyse the entropy monitor of a teacher: does it know which branch is worth copying?

    python scripts/analyse_entropy.py --teacher runs/teacher --output_dir runs/entropy
    python scripts/analyse_entropy.py --teacher org/av-teacher --monitor runs/monitor --output_dir runs/entropy \\
        --dataset vggsound --data_dir DIR --tags vggsounder.csv

Draws how the entropies of each branch are spread, accuracy and weight by entropy, weights as the picture is covered
and as the sound drowns in noise, and, with a table of tags such as VGGSounder's, weights of events that can be heard,
seen or both. Of a teacher of masks the score is MJ. Writes entropy_analysis.json, entropy_analysis.md and pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from transformers import PreTrainedModel

from hf_emktd.analysis import (
    EntropyAnalysis,
    Readings,
    TagWeights,
    clip_views,
    draw_entropies,
    entropy_bins,
    rank_correlations,
    read_monitor,
    read_tags,
    sound_noise_for,
    sweep_covers,
    sweep_noise,
    weights_by_tag,
)
from hf_emktd.distillation import LiveTeacher
from hf_emktd.hub.distillation_summary import write_whole
from hf_emktd.training import (
    ClipData,
    DataArguments,
    DistillationArguments,
    find_monitor,
    load_model,
    open_clips,
    parse_arguments,
    to_json,
)
from hf_emktd.training.clip_data import TEST
from hf_emktd.training.evaluation_arguments import MODALITIES
from hf_emktd.training.refusals import refusals_in_one_line

CLASSIFICATION = "audio-visual-classification"


@dataclass
class EntropyArguments:
    """
    Whose entropies, on which clips, and where the answer goes.

    Raises:
        ValueError: without a teacher, or for numbers out of range.
    """

    teacher: str | None = field(default=None, metadata={"help": "Directory or Hub id of the teacher. Required."})
    monitor: str | None = field(
        default=None, metadata={"help": "Directory or Hub id that holds entropy_monitor/; by default the teacher."}
    )
    split: str = field(
        default=TEST, metadata={"help": "Clips; on those the probes were trained on they are too sure."}
    )
    sweep_clips: int = field(
        default=500, metadata={"help": "So many random clips of the split at most in the sweeps."}
    )
    bins: int = field(default=10, metadata={"help": "Bins of equally many clips, by entropy."})
    entropy_lambda: float = field(
        default=DistillationArguments.entropy_lambda,
        metadata={"help": "Lambda of the branch weight exp(-lambda * entropy in nats); distill.py's default."},
    )
    tags: str | None = field(
        default=None, metadata={"help": "CSV with video_id, label and modality (A, V, AV), such as vggsounder.csv."}
    )
    batch_size: int = field(default=64, metadata={"help": "Clips per forward pass."})
    seed: int = field(default=0, metadata={"help": "Of the clips of the sweeps, the covers and the noise."})
    output_dir: str = field(default="runs/entropy_analysis", metadata={"help": "Folder for tables and pictures."})

    def __post_init__(self) -> None:
        if self.teacher is None:
            raise ValueError("--teacher is needed: the directory or Hub id of a trained teacher with a monitor")
        if self.entropy_lambda < 0:
            raise ValueError(f"entropy_lambda must not be negative, got {self.entropy_lambda}")
        for name in ("sweep_clips", "bins", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def main() -> None:
    args, data_args = parse_arguments((EntropyArguments, DataArguments), __doc__)
    with refusals_in_one_line():
        model, processor = load_model(args.teacher)
        teacher = with_monitor(model, args)
        tags = None if args.tags is None else read_tags(args.tags)
        noise = sound_noise_for(processor)
        data_args.fill_from(model.config)
        data = open_clips(data_args, processor, model_config=model.config, only_split=args.split)
        split = data.evaluation_split(args.split)
        readings = read_monitor(teacher, clip_views(data, split), args.batch_size)[0]
        bins = entropy_bins(readings, args.entropy_lambda, args.bins)
        by_tag = [] if tags is None else told_by_tag(readings, data, split, tags, args.entropy_lambda)
    swept = clip_views(data, split, args.sweep_clips, seed=args.seed)
    options = {"batch_size": args.batch_size, "seed": args.seed}
    events = model.config.task == CLASSIFICATION
    analysis = EntropyAnalysis(
        teacher=args.teacher,
        dataset=data_args.dataset,
        split=split,
        score="accuracy" if events else "MJ",
        entropy_lambda=args.entropy_lambda,
        largest_entropy=math.log(model.config.num_labels if events else 2),
        sweep_clips=len(swept),
        readings=readings,
        bins=bins,
        rank_correlations=rank_correlations(readings),
        covers=sweep_covers(teacher, swept, args.entropy_lambda, **options),
        noises=sweep_noise(teacher, swept, args.entropy_lambda, noise, **options),
        tags=by_tag,
    )
    save(analysis, Path(args.output_dir))


def with_monitor(model: PreTrainedModel, args: EntropyArguments) -> LiveTeacher:
    """The teacher with the monitor that was named or lies beside it."""
    monitor = find_monitor(args.monitor or args.teacher)
    if monitor is None:
        raise ValueError(
            f"{args.monitor or args.teacher} has no folder entropy_monitor/; train a monitor with "
            f"scripts/train_monitor.py --teacher {args.teacher}, or name one with --monitor."
        )
    if missing := [name for name in MODALITIES["both"] if name not in model.config.input_shapes]:
        raise ValueError(f"{args.teacher} takes no {', '.join(missing)}: what is compared are a teacher's two senses.")
    return LiveTeacher(model, monitor)


def told_by_tag(
    readings: Readings, data: ClipData, split: str, tags: dict[tuple[str, str], str], entropy_lambda: float
) -> list[TagWeights]:
    """Weights by tag of the split's clips, in the order of the readings."""
    features = data.split(split).with_format(None)
    names = data.source.label_names
    labels = [names[label] for label in features["label"][:]]
    return weights_by_tag(readings, features["clip_id"][:], labels, tags, entropy_lambda)


def save(analysis: EntropyAnalysis, output_dir: Path) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    text = analysis.to_markdown()
    write_whole(output_dir / "entropy_analysis.md", text + "\n")
    write_whole(output_dir / "entropy_analysis.json", to_json(analysis.to_dict()) + "\n")
    figures = draw_entropies(analysis)
    for name, figure in figures.items():
        figure.savefig(output_dir / f"{name}.png", dpi=150)
    pictures = ", ".join(f"{name}.png" for name in figures)
    print(f"\n{text}\n\n({output_dir}/entropy_analysis.json, entropy_analysis.md, {pictures})")


if __name__ == "__main__":
    main()
