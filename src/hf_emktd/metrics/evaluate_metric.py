"""The metrics of `event_classification.py` as an `evaluate.Metric` that needs no network.

A file of its own, imported on demand: `import evaluate` finds a neighbouring `evaluate.py` first when a script of that
name lies beside the one being run, as in this repository's `scripts/`.
"""

from __future__ import annotations

import evaluate
import numpy as np
from datasets import Features, List, Value

from .event_classification import event_classification_metrics

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
