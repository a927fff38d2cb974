"""From a data set's name to the views a trainer draws: options, splits, features, transforms."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedConfig, ProcessorMixin

from ..data import ClipSource, is_shards, is_table, load_clips, load_shards, task_of
from ..data.augmentation import AugmentationArguments, ClipTransform
from ..data.clip_stream import ClipStream, Neighbours, read_shards
from ..data.features import extract_features
from ..data.scene_augmentation import SceneAugmentationArguments, SceneTransform
from ..data.scene_features import extract_scene_features
from .streamed_views import StreamedViews
from .views import ClipViews

Augmentation = AugmentationArguments | SceneAugmentationArguments

TRAIN, VALIDATION, TEST = "train", "validation", "test"
MASK_NAMES = ("sounding",)
BUILT_IN = {"audio-visual-classification": "touchtone", "audio-visual-segmentation": "touchtone_scenes"}


@dataclass
class DataArguments:
    """
    Which clips, and how many of them.

    Raises:
        ValueError: if `dataset_options` is not a JSON object, or a number of clips or frames is below 1.
    """

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "'vggsound', 'touchtone' or the path of a .csv of your own clips to recognise events; "
            "'avsbench' or 'touchtone_scenes' to segment; or shards of scripts/prepare_dataset.py, a folder or a data "
            "set on the Hub. By default what the teacher's config names, else the built-in touchtone or "
            "touchtone_scenes."
        },
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the clips, where the data set needs one."})
    dataset_options: str | None = field(
        default=None, metadata={"help": "Further options of the data set as JSON, such as '{\"num_train\": 500}'."}
    )
    num_frames: int = field(
        default=10, metadata={"help": "Frames kept of each clip to recognise events in; CAV-MAE keeps 10."}
    )
    frame_size: int | None = field(
        default=None,
        metadata={
            "help": "Side in pixels that pictures and masks of scenes are stored at; by default as they lie on disk. "
            "The models' own image_size makes views several times faster."
        },
    )
    max_train_clips: int | None = field(
        default=None, metadata={"help": "Train on so many clips only, the same random ones in every run."}
    )
    strict: bool = field(
        default=False,
        metadata={
            "help": "End with an error at the first clip that is missing, corrupt or lacks sound or picture, and at "
            "the first oddity of the table, instead of counting and leaving out. Silent and still clips stay in use."
        },
    )
    feature_workers: int | None = field(default=None, metadata={"help": "Processes that extract features."})
    streaming: bool = field(
        default=False,
        metadata={"help": "Read the training clips of shards as they are needed, each rank its own, and keep none."},
    )
    shuffle_buffer: int = field(
        default=256, metadata={"help": "Of streaming: clips that every reader shuffles among each other."}
    )

    def __post_init__(self) -> None:
        if self.streaming and self.max_train_clips is not None:
            raise ValueError(
                "max_train_clips takes random clips of the whole set, which a stream does not know: leave it out, or "
                "write shards of fewer clips."
            )
        try:
            is_object = isinstance(self.options, dict)
        except json.JSONDecodeError:
            is_object = False
        if not is_object:
            raise ValueError(
                f"dataset_options must be a JSON object such as '{{\"num_train\": 500}}', got {self.dataset_options}."
            )
        for name in ("num_frames", "frame_size", "max_train_clips", "feature_workers", "shuffle_buffer"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")

    @property
    def options(self) -> dict[str, Any]:
        """`dataset_options` as a dict."""
        return json.loads(self.dataset_options) if self.dataset_options else {}

    def to_config(self, published: bool = False) -> dict[str, Any] | None:
        """
        What a model's config keeps, so that a later run on the model finds its data. Of a model that is `published`
        only what others have too: no folder, and nothing of a table or shards of one's own.
        """
        if not published:
            return {"dataset": self.dataset, "data_dir": self.data_dir, "options": self.options}
        own = is_table(self.dataset) or (is_shards(self.dataset) and Path(self.dataset).exists())
        return None if own else {"dataset": self.dataset, "options": self.options}

    def fill_from(self, config: PreTrainedConfig) -> None:
        """Takes the data that `config` (of a trained model) names where the user named none, or else touchtone."""
        if self.dataset is not None:
            return
        trained_on = getattr(config, "training_data", None) or {"dataset": BUILT_IN[config.task]}
        self.dataset = trained_on["dataset"]
        self.data_dir = self.data_dir or trained_on.get("data_dir")
        if self.dataset_options is None and trained_on.get("options"):
            self.dataset_options = json.dumps(trained_on["options"])


class ClipData:
    """
    The features of a data set's splits and the views made of them.

    Args:
        args: [`DataArguments`] with `dataset` filled in.
        processor: extracts the features; views are made for it unless another is given.
        model_config: *optional*, of a model whose classes must be these; checked before any clip is decoded.
        only_split: *optional*, the one split that is needed, by `evaluation_split`; the others are not decoded.

    Attributes:
        source: the [`ClipSource`], with its report of missing and odd clips.
        features: `datasets.DatasetDict` of what is stored of each clip.

    Raises:
        ValueError: if the data set is unknown, has not the one split, or its classes are not those of `model_config`.
    """

    def __init__(
        self,
        args: DataArguments,
        processor: ProcessorMixin,
        *,
        model_config: PreTrainedConfig | None = None,
        only_split: str | None = None,
    ):
        self.args = args
        self.processor = processor
        self.source = _open_source(args)
        if args.strict:
            self.source.report.refuse_problems()
        if model_config is not None:
            check_labels(self, model_config)
        if only_split is not None:
            self._drop_other_splits(self.evaluation_split(only_split))
        self.features = self._extract()
        self._limit_train()

    def _limit_train(self) -> None:
        if self.args.max_train_clips is not None and TRAIN in self.features:
            clips = min(self.args.max_train_clips, len(self.features[TRAIN]))
            # not the first ones: tables are often sorted by class
            self.features[TRAIN] = self.features[TRAIN].shuffle(seed=0).select(range(clips))

    def _extract(self) -> datasets.DatasetDict:
        options = {"num_frames": self.args.num_frames, "num_proc": self.args.feature_workers}
        return extract_features(self.source, self.processor, **options)

    def _drop_other_splits(self, wanted: str) -> None:
        splits = self.source.splits
        if wanted not in splits:
            raise ValueError(
                f"{self.args.dataset} has no split {wanted!r} with a clip in it, only {', '.join(splits)}. "
                f"{self.source.report.summary()}"
            )
        self.source.splits = datasets.DatasetDict({wanted: splits[wanted]})

    @property
    def label_names(self) -> list[str]:
        """What the model tells apart: class names by label id."""
        return self.source.label_names

    def split(self, name: str) -> datasets.Dataset:
        """
        Stored features of one split.

        Raises:
            ValueError: if the data set does not have it or no clip of it is usable.
        """
        if name not in self.features or not len(self.features[name]):
            raise ValueError(
                f"{self.args.dataset} has no usable clip in split {name!r} (splits: {', '.join(self.features)}). "
                f"{self.source.report.summary()}"
            )
        return self.features[name]

    def check_splits(self, evaluated: str) -> None:
        """
        Of what a run needs in the end, before its work.

        Raises:
            ValueError: as [`split`], of the training split or the one to evaluate.
        """
        _ = self.train_labels
        self.split(self.evaluation_split(evaluated))

    @property
    def train_labels(self) -> list[int] | None:
        """Class ids of the training split, in its order; `None` of a stream, which has no order of its own."""
        return self.split(TRAIN)["label"][:]

    def evaluation_split(self, name: str) -> str:
        """`name`, or the validation split where the data set has no test split."""
        return name if name != TEST or TEST in self.source.splits else VALIDATION

    def validation_views(self, processor: ProcessorMixin | None = None) -> datasets.Dataset | None:
        """Views of the validation split, `None` where there is none: the test split is never used in training."""
        return self.plain_views(VALIDATION, processor=processor) if VALIDATION in self.features else None

    def train_views(
        self,
        augmentation: Augmentation,
        processor: ProcessorMixin | None = None,
        teacher_processor: ProcessorMixin | None = None,
    ) -> ClipViews:
        """Augmented views of the training split, with the teacher's inputs where they are prepared differently."""
        features = self.split(TRAIN)
        transform = ClipTransform(
            processor or self.processor, augmentation, teacher_processor=teacher_processor, partners=features
        )
        return ClipViews(features, transform)

    def plain_views(
        self, name: str, processor: ProcessorMixin | None = None, frame_index: int | None = None
    ) -> datasets.Dataset:
        """Views of a split as evaluation takes them: the middle frame, or the given one, and nothing random."""
        transform = ClipTransform(processor or self.processor, frame_index=frame_index)
        return self.split(name).with_transform(transform)


class ShardData(ClipData):
    """
    [`ClipData`] of clips in shards ([`~data.shards.ShardIndex`]).

    With `args.streaming` the training split is read when a batch needs it and never kept. The other splits are small
    and evaluated in their order: they lie in memory-mapped files of the `datasets` cache directory, as all do without
    `streaming`. Features come with their number of frames, `args.num_frames` is set to it.

    Raises:
        ValueError: as [`ClipData`], or if the features were made for other inputs.
    """

    def __init__(
        self,
        args: DataArguments,
        processor: ProcessorMixin,
        *,
        model_config: PreTrainedConfig | None = None,
        only_split: str | None = None,
    ):
        self.args, self.processor = args, processor
        self.index = load_shards(args.dataset, **args.options)
        self.index.check_settings(processor)
        if self.index.settings is not None:
            args.num_frames = self.index.settings["num_frames"]
        self.source = ClipSource(self.index.label_names, dict.fromkeys(self.index.splits), self.index.report())
        if args.strict:
            self.source.report.refuse_problems()
        if model_config is not None:
            check_labels(self, model_config)
        if only_split is not None:
            self._drop_other_splits(self.evaluation_split(only_split))
        self.features = self._extract()
        self._limit_train()

    def _drop_other_splits(self, wanted: str) -> None:
        if wanted not in self.index.splits:
            raise ValueError(f"{self.args.dataset} has no split {wanted!r}, only {', '.join(self.index.splits)}.")
        self.source.splits = {wanted: None}

    def _extract(self) -> dict[str, datasets.Dataset | ClipStream]:
        return {
            split: self._stream() if self._is_streamed(split) else self._rows(split) for split in self.source.splits
        }

    def _is_streamed(self, split: str) -> bool:
        return self.args.streaming and split == TRAIN

    def _stream(self) -> ClipStream:
        return ClipStream(self.index, TRAIN, self.processor, num_frames=self.args.num_frames)

    def _rows(self, split: str) -> datasets.Dataset:
        rows = read_shards(self.index, split)
        if self.index.store == "features":
            return rows
        contents = {split: " ".join(shard.sha256 for shard in self.index.splits[split])}
        source = ClipSource(self.index.label_names, datasets.DatasetDict({split: rows}), self.source.report, contents)
        options = {"num_frames": self.args.num_frames, "num_proc": self.args.feature_workers}
        return extract_features(source, self.processor, **options)[split]

    @property
    def train_labels(self) -> list[int] | None:
        return None if self._is_streamed(TRAIN) else super().train_labels

    def train_views(
        self,
        augmentation: Augmentation,
        processor: ProcessorMixin | None = None,
        teacher_processor: ProcessorMixin | None = None,
    ) -> ClipViews | StreamedViews:
        """As [`ClipData.train_views`]; clips of a stream are mixed with those read shortly before and after."""
        if not self._is_streamed(TRAIN):
            return super().train_views(augmentation, processor, teacher_processor)
        partners = Neighbours(len(self.label_names))
        transform = ClipTransform(processor or self.processor, augmentation, teacher_processor, partners=partners)
        return StreamedViews(self.split(TRAIN), transform, self.args.shuffle_buffer)

    def plain_views(
        self, name: str, processor: ProcessorMixin | None = None, frame_index: int | None = None
    ) -> datasets.Dataset | StreamedViews:
        if not self._is_streamed(name):
            return super().plain_views(name, processor, frame_index)
        return StreamedViews(
            self.split(name), ClipTransform(processor or self.processor, frame_index=frame_index), shuffled=False
        )


class SceneData(ClipData):
    """[`ClipData`] of clips with masks: views of all frames, and what a model tells apart is sounding or not."""

    @property
    def label_names(self) -> list[str]:
        """Names of the masks; the classes that AVSBench sorts its clips by stay in `source`."""
        return list(MASK_NAMES)

    def _extract(self) -> datasets.DatasetDict:
        options = {"frame_size": self.args.frame_size, "num_proc": self.args.feature_workers}
        return extract_scene_features(self.source, self.processor, **options)

    def train_views(
        self,
        augmentation: Augmentation,
        processor: ProcessorMixin | None = None,
        teacher_processor: ProcessorMixin | None = None,
    ) -> ClipViews:
        transform = SceneTransform(processor or self.processor, augmentation, teacher_processor=teacher_processor)
        return ClipViews(self.split(TRAIN), transform)

    def plain_views(self, name: str, processor: ProcessorMixin | None = None, sound: str = "own") -> datasets.Dataset:
        """Views of a split as evaluation takes them; `sound` as in [`~data.scene_augmentation.SceneTransform`]."""
        features = self.split(name)
        transform = SceneTransform(processor or self.processor, sound=sound, partners=features)
        return features.with_transform(transform)


AUGMENTATIONS = {
    "audio-visual-classification": AugmentationArguments,
    "audio-visual-segmentation": SceneAugmentationArguments,
}
DATA = {"audio-visual-classification": ClipData, "audio-visual-segmentation": SceneData}


def _open_source(args: DataArguments) -> ClipSource:
    if is_table(args.dataset) and not Path(args.dataset).exists():
        raise FileNotFoundError(
            f"No such file or directory: {args.dataset!r}, seen from {Path.cwd()}. A path that a model's config names "
            "is relative to the folder the model was trained in: start there, or name the table with --dataset."
        )
    return load_clips(args.dataset, data_dir=args.data_dir, **args.options)


def open_clips(
    args: DataArguments,
    processor: ProcessorMixin,
    *,
    model_config: PreTrainedConfig | None = None,
    only_split: str | None = None,
) -> ClipData:
    """
    [`ClipData`], [`ShardData`] or [`SceneData`], whichever the data set `args` names is. Arguments as there.

    Raises:
        ValueError: as there, or if `model_config` is of a model for another task, or streaming is asked for of
            something else than shards.
    """
    task = task_of(args.dataset)
    in_shards = is_shards(args.dataset)
    if args.streaming and not in_shards:
        raise ValueError(
            f"only shards can be streamed, and {args.dataset} is none: write some with scripts/prepare_dataset.py "
            f"--dataset {args.dataset} --output_dir SHARDS, then --dataset SHARDS --streaming true."
        )
    if model_config is not None and model_config.task != task:
        raise ValueError(
            f"{args.dataset} is a data set for {task}, the model is for {model_config.task}. Name another data set "
            "with --dataset, or another model."
        )
    kind = ShardData if in_shards else DATA[task]
    return kind(args, processor, model_config=model_config, only_split=only_split)


def augmentation_for(config: PreTrainedConfig, given: Sequence[Augmentation]) -> Augmentation:
    """Of the `given` options those of the model's task, with what its config names where they were left alone."""
    kind = AUGMENTATIONS[config.task]
    return next(augmentation for augmentation in given if isinstance(augmentation, kind)).fill_from(config)


def check_labels(data: ClipData, config: PreTrainedConfig) -> None:
    """
    Refuses a model for other classes than the data set's, or for the same in another order.

    Raises:
        ValueError: naming the first classes that differ on both sides.
    """
    names = [config.id2label[index] for index in range(config.num_labels)]
    if names != data.label_names:
        pairs = enumerate(zip(names, data.label_names, strict=False))
        different = next((i for i, (a, b) in pairs if a != b), min(len(names), len(data.label_names)))
        raise ValueError(
            f"the model has {len(names)} classes and {data.args.dataset} has {len(data.label_names)}; they differ "
            f"from class {different} on (model: {names[different : different + 3]}, data: "
            f"{data.label_names[different : different + 3]}). Evaluate on the data the model was trained for, or "
            "train a teacher on these classes first with train_teacher.py --init MODEL."
        )
