"""Write clips as shards that training reads from disk or streams from the Hub.

    python scripts/prepare_dataset.py --dataset clips.csv --processor runs/teacher --output_dir shards
    python scripts/prepare_dataset.py --dataset vggsound --data_dir VGGSound --store media --output_dir shards
    python scripts/prepare_dataset.py --dataset clips.csv --processor runs/teacher --output_dir shards \\
        --push_to_hub true --hub_dataset_id you/clips
    python scripts/prepare_dataset.py --output_dir shards --verify true
    python scripts/distill.py --teacher runs/teacher --dataset shards --streaming true

Features are spectrograms and frames as `--processor`, the model to be distilled, reads them: nothing is decoded in
training. Media are the clips' own files: they serve every model, and are decoded whenever they are read. Missing,
corrupt, soundless, silent and still clips are counted in `clips.json`. A run that was killed goes on where it stopped
when it is started again. `--verify true` compares finished shards with the checksums in `shards.json`, as after a copy
to another machine: training does not.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoProcessor

from hf_emktd.data import load_clips, load_shards, task_of, write_shards
from hf_emktd.data.shards import CONTAINERS, STORES
from hf_emktd.hub import prepare_repository, push_shards
from hf_emktd.training import parse_arguments
from hf_emktd.training.clip_data import DataArguments
from hf_emktd.training.interruption import AGAIN, ending_in_one_line
from hf_emktd.training.refusals import refusals_in_one_line


@dataclass
class ShardArguments:
    """
    What is written and where to.

    Raises:
        ValueError: for an unknown choice, features without a processor, or a push without a name.
    """

    output_dir: str = field(default="", metadata={"help": "Folder for the shards. Required."})
    store: str = field(default="features", metadata={"help": f"What is kept of a clip: {' or '.join(STORES)}."})
    container: str = field(
        default="parquet", metadata={"help": f"{' or '.join(CONTAINERS)}; the latter (tar) for media only."}
    )
    processor: str | None = field(
        default=None, metadata={"help": "Directory or Hub id of the teacher whose inputs the features are made for."}
    )
    clips_per_shard: int = field(
        default=256, metadata={"help": "At most so many clips in a file: at least one file a rank and loader worker."}
    )
    verify: bool = field(
        default=False, metadata={"help": "Write nothing; compare the shards in --output_dir with their checksums."}
    )
    push_to_hub: bool = field(default=False, metadata={"help": "Upload the shards as a data set."})
    hub_dataset_id: str | None = field(default=None, metadata={"help": "Its name, org/name."})
    hub_private_repo: bool = field(default=False, metadata={"help": "Whether the data set is private when created."})
    hub_token: str | None = field(
        default=None, repr=False, metadata={"help": "By default that of `hf auth login` or HF_TOKEN."}
    )

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise ValueError("--output_dir is needed: the folder for the shards")
        if self.store not in STORES or self.container not in CONTAINERS:
            raise ValueError(f"--store is {' or '.join(STORES)} and --container {' or '.join(CONTAINERS)}")
        if self.store == "features" and self.processor is None and not self.verify:
            raise ValueError("--processor is needed for --store features: the teacher that reads them")
        if self.push_to_hub and self.hub_dataset_id is None:
            raise ValueError("--push_to_hub needs --hub_dataset_id org/name")


def main() -> None:
    data_args, args = parse_arguments((DataArguments, ShardArguments), __doc__)
    if args.verify:
        with refusals_in_one_line():
            return verify(args.output_dir)
    if args.push_to_hub:
        private, token = args.hub_private_repo, args.hub_token
        prepare_repository(args.hub_dataset_id, repo_type="dataset", private=private, token=token)
    with refusals_in_one_line():
        if data_args.dataset is None:
            raise ValueError("--dataset is needed: a name, or the path of a table of clips")
        if task_of(data_args.dataset) != "audio-visual-classification":
            raise ValueError(f"{data_args.dataset} has masks; shards hold clips with a class")
        processor = None if args.processor is None else AutoProcessor.from_pretrained(args.processor)
        source = load_clips(data_args.dataset, data_dir=data_args.data_dir, **data_args.options)
        if data_args.strict:
            source.report.refuse_problems()
        index = write_shards(
            source,
            args.output_dir,
            processor,
            store=args.store,
            container=args.container,
            num_frames=data_args.num_frames,
            clips_per_shard=args.clips_per_shard,
            num_proc=data_args.feature_workers or os.cpu_count() or 1,
        )
    print(index.report().summary())
    for split, shards in index.splits.items():
        megabytes = sum(shard.bytes for shard in shards) / 1e6
        print(f"{split}: {index.num_clips(split):,} clips in {len(shards)} shards, {megabytes:,.1f} MB")
    if args.push_to_hub:
        print(push_shards(Path(args.output_dir), args.hub_dataset_id, private=private, token=token))


def verify(folder: str) -> None:
    """Ends the program with status 1 if a shard is not what was written."""
    index = load_shards(Path(folder).resolve())
    damaged = index.damaged_files()
    if damaged:
        named = ", ".join(damaged[:3])
        sys.exit(f"{len(damaged)} shards of {folder} are missing or damaged: {named}. Fetch or write them again.")
    print(f"{sum(map(len, index.splits.values()))} shards of {folder} are what was written.")


if __name__ == "__main__":
    with ending_in_one_line(AGAIN):
        main()
