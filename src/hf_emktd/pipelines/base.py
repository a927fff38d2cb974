"""What both pipelines share: which items they take, and how one that cannot be read is reported."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from datasets import Dataset, IterableDataset
from transformers import AutoProcessor
from transformers.pipelines.base import ChunkPipeline

from ..data.media import MediaError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, ProcessorMixin

ON_ERROR = ("raise", "report")
Chunk = dict[str, Any]


class AudioVisualPipeline(ChunkPipeline):
    """
    A file of any length is cut into windows, a chunk each, of which `batch_size` go through the model at once, from
    whatever files they come; what a clip lacks is zeros that no answer is taken from.

    Raises:
        ValueError: the model is for another task.
    """

    model_task: ClassVar[str]
    _load_processor = None
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(
        self, model: PreTrainedModel, *, processor: ProcessorMixin | str | None = None, **options: Any
    ) -> None:
        if model.config.task != self.model_task:
            raise ValueError(
                f"{type(model).__name__} is a model for {model.config.task}; make its pipeline with "
                f"pipeline({model.config.task!r}, model=...)."
            )
        if processor is None or isinstance(processor, str):
            processor = AutoProcessor.from_pretrained(processor or model.name_or_path)
        super().__init__(model=model.eval(), processor=processor, **options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__} on {self.device})"

    def __call__(self, inputs: Any, **options: Any) -> Any:
        if isinstance(inputs, Dataset | IterableDataset):
            return super().__call__((row for row in inputs), **options)
        if isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes | bytearray | memoryview):
            # a generator, so that a column of `datasets` is read one by one
            return list(super().__call__((item for item in inputs), **options))
        return super().__call__(inputs, **options)

    def preprocess(self, item: Any, on_error: str = "raise", **options: Any) -> Iterator[Chunk]:
        try:
            yield from _with_last(self.chunks(item, **options))
        except MediaError as error:
            if on_error == "raise":
                raise
            yield {**self.empty_chunk(), "path": str(error.path), "error": error.reason, "is_last": True}

    @abstractmethod
    def chunks(self, item: Any, **options: Any) -> Iterator[Chunk]:
        """The windows of one item, made ready; at least one."""

    def empty_chunk(self) -> Chunk:
        """A chunk of zeros for all inputs of the model, with every key that chunks have."""
        shapes = self.model.config.input_shapes
        inputs = {name: torch.zeros(1, *shape) for name, shape in shapes.items()}
        return {**inputs, "path": "", "start": 0.0, "end": 0.0, "notes": [], "error": None}

    def save_pretrained(self, save_directory: str, **options: Any) -> None:
        """Saves model and processor; the pipeline's own code stays in this package."""
        self.model.save_pretrained(save_directory, **options)
        self.processor.save_pretrained(save_directory, **options)

    @staticmethod
    def failure(chunks: Sequence[Chunk]) -> dict[str, str] | None:
        """The answer for an item that could not be read, `None` for one that could."""
        last = chunks[-1]
        return None if last["error"] is None else {"path": last["path"], "error": last["error"]}

    @staticmethod
    def check_options(**options: Any) -> None:
        """Raises `ValueError` for a number below 1, a length that is not positive or an unknown way out."""
        for name in ("top_k", "frames"):
            if options.get(name, 1) < 1:
                raise ValueError(f"{name} must be at least 1, got {options[name]}.")
        for name in ("window_seconds", "stride_seconds", "max_seconds"):
            if not options.get(name, 1) > 0:
                raise ValueError(f"{name} must be positive, got {options[name]}.")
        if options.get("on_error", "raise") not in ON_ERROR:
            raise ValueError(f"on_error must be one of {', '.join(ON_ERROR)}, got {options['on_error']!r}.")

    def model_inputs(self, chunk: Chunk, names: Iterable[str], rows: Tensor | slice) -> dict[str, Tensor]:
        """Some rows of some inputs, in the model's precision."""
        dtype = getattr(self.model, "dtype", torch.float32)
        return {name: chunk[name][rows].to(dtype) for name in names}


def given(**options: Any) -> dict[str, Any]:
    """The options that are not `None`: defaults stand where they are used."""
    return {name: value for name, value in options.items() if value is not None}


def notes_of_windows(notes: Sequence[Sequence[str]]) -> list[str]:
    """The notes of all windows, with the number of those that a note holds for where it is not all."""
    counts = Counter(note for window in notes for note in window)
    return [
        note if count == len(notes) else f"{note}, in {count} of {len(notes)} windows"
        for note, count in counts.items()
    ]


def _with_last(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    waiting = None
    for chunk in chunks:
        if waiting is not None:
            yield {**waiting, "is_last": False}
        waiting = chunk
    yield {**waiting, "is_last": True}
