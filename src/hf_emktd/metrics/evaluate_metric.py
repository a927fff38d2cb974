"""The metrics of `event_classification.py` and `segmentation.py` as `evaluate.Metric`s that need no network.

A file of its own, imported on demand: `import evaluate` finds a neighbouring `evaluate.py` first when a script of that
name lies beside the one being run, as in this repository's `scripts/`.
"""

from __future__ import annotations

from typing import Any

import evaluate
import numpy as np
import torch
from datasets import Features, List, Value

from .event_classification import event_classification_metrics
from .segmentation import frame_statistics, segmentation_metrics

_DESCRIPTION = "Accuracy, mAP, mAUC and d-prime of event classification, as CAV-MAE and VGGSound compute them."

_CITATION = """\
@inproceedings{gong2023contrastive,
  title = {Contrastive Audio-Visual Masked Autoencoder},
  author = {Gong, Yuan and Rouditchenko, Andrew and Liu, Alexander H. and Harwath, David and Karlinsky, Leonid and
            Kuehne, Hilde and Glass, James},
  booktitle = {International Conference on Learning Representations},
  year = {2023}
}"""

_INPUTS = """
Args:
    predictions: `(clips, classes)` logits.
    references: `(clips,)` class ids or `(clips, classes)` multi-hot 0/1.
    scores: `"logits"` (default) or `"softmax"`, what the clips are ranked by.
"""


class EventClassification(evaluate.Metric):
    """[`event_classification_metrics`] collected batch by batch.

    Example:

    ```py
    >>> from hf_emktd.metrics import EventClassification
    >>> metric = EventClassification()
    >>> metric.add_batch(predictions=[[2.0, 0.0], [0.0, 1.0]], references=[0, 1])
    >>> metric.compute(scores="softmax")["accuracy"]
    1.0
    ```
    """

    def _info(self) -> evaluate.MetricInfo:
        predictions = List(Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=[
                Features({"predictions": predictions, "references": Value("int64")}),
                Features({"predictions": predictions, "references": List(Value("int64"))}),
            ],
        )

    def _compute(
        self, predictions: list[list[float]], references: list[int] | list[list[int]], scores: str = "logits"
    ) -> dict[str, float]:
        return event_classification_metrics(np.asarray(predictions), np.asarray(references), scores=scores)


_SEGMENTATION_DESCRIPTION = "MJ (mean IoU) and MF (F-measure) of sound-guided segmentation, as AVSBench computes them."

_SEGMENTATION_CITATION = """\
@inproceedings{zhou2022audio,
  title = {Audio-Visual Segmentation},
  author = {Zhou, Jinxing and Wang, Jianyuan and Zhang, Jiayi and Sun, Weixuan and Zhang, Jing and
            Birchfield, Stan and Guo, Dan and Kong, Lingpeng and Wang, Meng and Zhong, Yiran},
  booktitle = {European Conference on Computer Vision},
  year = {2022}
}"""

_SEGMENTATION_INPUTS = """
Args:
    predictions: `(clips, frames, height, width)` logits.
    references: masks of the same shape, 1 sounding, 0 not, -100 in every pixel of a frame without label.
    protocol: `"avsbench"` (default) or `"dataset"`.
    clips_per_batch: test batch that `"avsbench"` averages over, 1 by default.
"""


class SegmentationMetric(evaluate.Metric):
    """[`segmentation_metrics`] collected batch by batch; the statistics of the frames are stored, not their maps.

    Example:

    ```py
    >>> import torch
    >>> from hf_emktd.metrics import SegmentationMetric

    >>> metric = SegmentationMetric()
    >>> labels = torch.eye(4).expand(2, 5, 4, 4)
    >>> metric.add_batch(predictions=20 * labels - 10, references=labels)
    >>> round(metric.compute(protocol="dataset")["MJ"], 6)
    1.0
    ```
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_SEGMENTATION_DESCRIPTION,
            citation=_SEGMENTATION_CITATION,
            inputs_description=_SEGMENTATION_INPUTS,
            features=Features({"predictions": List(List(Value("float32")))}),
        )

    def add_batch(self, *, predictions: Any, references: Any) -> None:
        """Adds clips; arguments as the class lists them, arrays or tensors."""
        statistics = frame_statistics(torch.as_tensor(predictions), torch.as_tensor(references))
        super().add_batch(predictions=statistics.cpu().numpy())

    def add(self, *, prediction: Any, reference: Any) -> None:
        """Adds one clip, `(frames, height, width)`."""
        self.add_batch(predictions=torch.as_tensor(prediction)[None], references=torch.as_tensor(reference)[None])

    def compute(self, *, predictions: Any = None, references: Any = None, **options: Any) -> dict[str, float] | None:
        """The metrics of all clips added, these included; `protocol` and `clips_per_batch` are options."""
        if predictions is not None:
            self.add_batch(predictions=predictions, references=references)
        return super().compute(**options)

    def _compute(
        self, predictions: list[list[list[float]]], protocol: str = "avsbench", clips_per_batch: int = 1
    ) -> dict[str, float]:
        return segmentation_metrics(predictions, protocol=protocol, clips_per_batch=clips_per_batch)
