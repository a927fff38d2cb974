"""`pipeline("audio-visual-classification")`: which event a clip shows, also in a long file and by sense."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data.clip_windows import window_starts
from ..data.media import MediaError
from ..distillation.entropy_monitor import CLASSIFICATION, EntropyMonitor, entropy_weights
from ..distillation.teacher import branch_tokens, check_monitor
from ..hub.prediction import INPUTS, OFFICIAL_FRAMES, check_answers, clip_inputs, nothing_to_answer, rank_labels
from ..training.loading import find_monitor, load_model
from .base import AudioVisualPipeline, Chunk, given, notes_of_windows
from .media_inputs import open_media

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

# Training reads so much of a clip, as CAV-MAE does; a model may hear less.
CLIP_SECONDS = 10.0
SPECTROGRAM_FRAME_SECONDS = 0.01
# Which branch of the monitored model is whose.
BRANCHES = {"both": "fusion", "audio": "audio", "visual": "visual"}
PASSED = ("path", "start", "end", "notes", "error", "is_last")


class AudioVisualClassificationPipeline(AudioVisualPipeline):
    """
    The event that a clip shows, in what it sounds and looks like; for a long file, when.

    ```python
    >>> import hf_emktd
    >>> from transformers import pipeline

    >>> classifier = pipeline("audio-visual-classification", model="runs/student")
    >>> classifier("clip.mp4", top_k=2)["labels"]
    ```

    Args:
        model ([`PreTrainedModel`] or [`~export.OnnxModel`]):
            A classifier that keeps the output contract.
        processor (`ProcessorMixin`, *optional*):
            Its processor; by default the one saved with the model.
        teacher (`str`, *optional*):
            Directory or Hub id of the model whose entropy monitor `by_modality` asks; it runs beside the model. By
            default the model itself, if a monitor of its own tokens lies beside it in `entropy_monitor/`.
        top_k (`int`, *optional*, defaults to 5):
            Number of labels, at most all.
        by_modality (`bool`, *optional*, defaults to `False`):
            Whether to answer also from the sound alone and from the picture alone.
        frames (`int`, *optional*, defaults to 1):
            1: the middle one of each window's frames. More: the softmax averaged over so many.
        window_seconds (`float`, *optional*):
            How much the model looks at at once; by default what it hears, at most 10 seconds.
        stride_seconds (`float`, *optional*):
            From one window to the next; by default `window_seconds`. The last window ends with the file.
        max_seconds (`float`, *optional*):
            How much of a file is read; by default all.
        on_error (`str`, *optional*, defaults to `"raise"`):
            What to do with a file that cannot be read: `"raise"`, or `"report"`: its answer is
            `{"path": ..., "error": ...}` and the others go on.

    A call takes what [`open_media`] takes, or a list or column of it, and gives for each

    - `labels`: the best labels, `{"label", "score"}`, averaged over the windows, each answered from all that it has;
    - `answered_from`: `"both"`, `"audio"` or `"visual"`, or `"mixed"` where windows differ;
    - `notes`: what was missing, such as `"no sound: answered from the picture"`;
    - `timeline`: `{"start", "end", "labels", "answered_from"}` of each window, in seconds; no label where there is
      nothing to answer from;
    - `modalities`, with `by_modality`: by `"both"`, `"audio"`, `"visual"`, as far as the file has them, `labels`, and
      with a monitor `entropy` in nats and `entropy_weight`, the branch's weight in EM-KTD, averaged over the windows.

    Raises:
        MediaError: a file cannot be read, or has neither sound nor picture, or not the one that the model takes.
        ValueError: an option is out of range, or `teacher` has no monitor of its own.
    """

    model_task = CLASSIFICATION

    def __init__(self, model: PreTrainedModel, *, teacher: str | None = None, **options: Any) -> None:
        super().__init__(model, **options)
        self._teacher_name = teacher
        self._monitored: _Monitored | None = None
        if teacher is not None:
            self._monitored = _Monitored.load(teacher, model.name_or_path)
            self._monitored.model.to(self.device)

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        by_modality: bool | None = None,
        frames: int | None = None,
        window_seconds: float | None = None,
        stride_seconds: float | None = None,
        max_seconds: float | None = None,
        on_error: str | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        reading = given(
            by_modality=by_modality,
            frames=frames,
            window_seconds=window_seconds,
            stride_seconds=stride_seconds,
            max_seconds=max_seconds,
            on_error=on_error,
        )
        ranking = given(top_k=top_k, by_modality=by_modality)
        self.check_options(**reading, **given(top_k=top_k))
        return reading, given(by_modality=by_modality), ranking

    def chunks(
        self,
        item: Any,
        by_modality: bool = False,
        frames: int = 1,
        window_seconds: float | None = None,
        stride_seconds: float | None = None,
        max_seconds: float | None = None,
    ) -> Iterator[Chunk]:
        seconds = self.window_seconds if window_seconds is None else window_seconds
        monitored = self._find_monitored() if by_modality else None
        answers = False
        with open_media(item) as media:
            duration = min(media.duration(), max_seconds or math.inf)
            starts = window_starts(duration, seconds, stride_seconds)
            rate = self.processor.feature_extractor.sampling_rate
            options = {"sampling_rate": rate, "num_frames": OFFICIAL_FRAMES if frames == 1 else frames}
            for start, clip in zip(starts, media.windows(starts, seconds, **options), strict=True):
                inputs, notes = clip_inputs(clip, self.processor, middle_frame=frames == 1)
                if monitored is not None:
                    heard_and_seen, _ = clip_inputs(clip, monitored.processor, middle_frame=frames == 1)
                    inputs |= {f"monitored_{name}": values for name, values in heard_and_seen.items()}
                answers = answers or bool(inputs)
                place = {"path": media.name, "start": start, "end": min(start + seconds, duration), "notes": notes}
                for values in _one_by_one(inputs):
                    yield {**self.empty_chunk(), **values, **_presence(values), **place}
            if not answers:
                raise MediaError(media.name, nothing_to_answer(self.processor))

    @property
    def window_seconds(self) -> float:
        """How much the model hears at once, or a clip's length where it hears more or nothing."""
        shape = self.model.config.input_shapes.get("input_values")
        return CLIP_SECONDS if shape is None else min(shape[0] * SPECTROGRAM_FRAME_SECONDS, CLIP_SECONDS)

    def empty_chunk(self) -> Chunk:
        chunk = super().empty_chunk() | _presence({})
        if self._monitored is not None:
            shapes = self._monitored.model.config.input_shapes
            chunk |= {f"monitored_{name}": torch.zeros(1, *shape) for name, shape in shapes.items()}
        return chunk

    def _find_monitored(self) -> _Monitored | None:
        """The teacher, or the model itself where a monitor of its own lies beside it; looked for once."""
        if self._monitored is None and self._teacher_name is None:
            self._teacher_name = self.model.name_or_path
            self._monitored = _Monitored.beside(self.model, self.processor)
        return self._monitored

    def _forward(self, chunk: Chunk, by_modality: bool = False) -> Chunk:
        heard, seen = chunk["has_sound"], chunk["has_picture"]
        fullest = {"both": heard & seen, "audio": heard & ~seen, "visual": seen & ~heard}
        asked = {"both": heard & seen, "audio": heard, "visual": seen} if by_modality else fullest
        answers = {modality: self._probabilities(chunk, modality, rows) for modality, rows in asked.items()}
        if by_modality and self._monitored is not None:
            answers |= self._entropies(chunk, fullest)
        return {**answers, **{name: chunk[name] for name in PASSED}}

    def _probabilities(self, chunk: Chunk, modality: str, rows: Tensor) -> Tensor:
        """`(batch, classes)`, undefined in the rows that do not have the modality."""
        probabilities = torch.full((len(rows), self.model.config.num_labels), torch.nan, device=rows.device)
        if rows.any():
            logits = self.model(**self.model_inputs(chunk, INPUTS[modality], rows)).logits
            paths = chunk["path"] if isinstance(chunk["path"], list) else [chunk["path"]]
            check_answers(logits, [path for path, is_asked in zip(paths, rows, strict=True) if is_asked])
            probabilities[rows] = logits.to(rows.device).float().softmax(dim=-1)
        return probabilities

    def _entropies(self, chunk: Chunk, fullest: dict[str, Tensor]) -> dict[str, Tensor]:
        """By modality the entropy `(batch,)` of its branch, undefined in rows without it."""
        blank = torch.full_like(fullest["both"], torch.nan, dtype=torch.float32)
        entropies = {branch: blank.clone() for branch in BRANCHES.values()}
        for modality, rows in fullest.items():
            if rows.any():
                inputs = {name: chunk[f"monitored_{name}"][rows] for name in INPUTS[modality]}
                for branch, values in self._monitored.entropies(inputs).items():
                    entropies[branch][rows] = values
        return {f"entropy_{modality}": entropies[branch] for modality, branch in BRANCHES.items()}

    def postprocess(self, chunks: Sequence[Chunk], top_k: int = 5, by_modality: bool = False) -> dict[str, Any]:
        if failure := self.failure(chunks):
            return failure
        windows = [_Window(list(group)) for _, group in groupby(chunks, key=lambda chunk: chunk["start"])]
        sources = {window.answered_from for window in windows} - {None}
        answer = {
            "labels": self._labels([window.best for window in windows], top_k),
            "answered_from": sources.pop() if len(sources) == 1 else "mixed",
            "notes": notes_of_windows([window.notes for window in windows]),
            "timeline": [
                {
                    "start": window.start,
                    "end": window.end,
                    "labels": self._labels([window.best], top_k),
                    "answered_from": window.answered_from,
                }
                for window in windows
            ],
        }
        if by_modality:
            answer["modalities"] = {
                modality: {"labels": self._labels(scores, top_k), **_knowledge(windows, modality)}
                for modality in INPUTS
                if (
                    scores := [
                        window.probabilities[modality] for window in windows if modality in window.probabilities
                    ]
                )
            }
        return answer

    def _labels(self, scores: Iterable[Tensor | None], top_k: int) -> list[dict[str, Any]]:
        known = [values for values in scores if values is not None]
        if not known:
            return []
        ranked = rank_labels(torch.stack(known).mean(dim=0), self.model.config.id2label, top_k)
        return [{"label": label, "score": score} for label, score in ranked]


class _Window:
    """What the chunks of one window, a frame each, say together."""

    def __init__(self, chunks: list[Chunk]) -> None:
        self.start, self.end, self.notes = chunks[0]["start"], chunks[0]["end"], chunks[0]["notes"]
        means = {name: torch.cat([chunk[name] for chunk in chunks]).mean(dim=0) for name in INPUTS}
        self.probabilities = {name: mean for name, mean in means.items() if not mean.isnan().any()}
        self.answered_from = next(iter(self.probabilities), None)
        self.best = self.probabilities.get(self.answered_from)
        named = {name: f"entropy_{name}" for name in INPUTS if f"entropy_{name}" in chunks[0]}
        self.entropies = {name: torch.cat([chunk[key] for chunk in chunks]) for name, key in named.items()}


class _Monitored:
    """A model whose monitor says how much each of its branches knows about a clip."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, monitor: EntropyMonitor) -> None:
        check_monitor(monitor, model)
        self.model, self.processor = model.eval(), processor
        self.monitor = monitor.to(model.device).eval()

    @classmethod
    def load(cls, teacher: str, *elsewhere: str) -> _Monitored:
        monitor = find_monitor(teacher, *elsewhere)
        if monitor is None:
            raise ValueError(
                f"{teacher} has no entropy_monitor/, nor has the model; make one with scripts/train_monitor.py."
            )
        return cls(*load_model(teacher), monitor)

    @classmethod
    def beside(cls, model: PreTrainedModel, processor: ProcessorMixin) -> _Monitored | None:
        """The monitor of the model's own tokens; one that was left there by its teacher is another's."""
        monitor = find_monitor(model.name_or_path)
        try:
            return None if monitor is None else cls(model, processor, monitor)
        except ValueError:
            return None

    def entropies(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        self.monitor.to(self.model.device)
        inputs = {name: values.to(self.model.device, self.model.dtype) for name, values in inputs.items()}
        return self.monitor(branch_tokens(self.model(**inputs, output_tokens=True))).entropies


def _one_by_one(inputs: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Inputs with one frame each; the one spectrogram goes with every frame."""
    count = max((len(values) for values in inputs.values()), default=1)
    for index in range(count):
        yield {name: values[index : index + 1] if len(values) > 1 else values for name, values in inputs.items()}


def _presence(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"has_sound": "input_values", "has_picture": "pixel_values"}
    return {name: torch.tensor([input_name in inputs]) for name, input_name in names.items()}


def _knowledge(windows: Sequence[_Window], modality: str) -> dict[str, float]:
    known = [window.entropies[modality] for window in windows if modality in window.entropies]
    entropies = torch.cat(known) if known else torch.empty(0)
    entropies = entropies[~entropies.isnan()]
    if not len(entropies):
        return {}
    weights = entropy_weights({modality: entropies})[modality]
    return {"entropy": entropies.mean().item(), "entropy_weight": weights.mean().item()}
