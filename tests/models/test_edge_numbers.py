"""Silence, constant pictures and large inputs in all precisions: finite answers, losses and gradients."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_emktd import AvSegFormerProcessor, CavMaeProcessor
from hf_emktd.metrics import event_classification_metrics
from hf_emktd.models.avsegformer import segmentation_loss
from hf_emktd.training.tasks import task_loss

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_classifier import make_classifier
from tiny_segmenter import make_segmenter

MODELS = {"events": make_classifier, "masks": make_segmenter}


def loss_of(output, label: int) -> torch.Tensor:
    if output.logits.ndim == 2:
        return task_loss(output.logits, torch.tensor([label]))
    labels = torch.full(output.logits.shape, label - 100 * (label == 2))
    parts = segmentation_loss(output.logits, output.mask_features, labels, "dice_bce", 0.1)
    return torch.stack(list(parts.values())).sum()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_inputs_at_the_edge(kind, dtype):
    model = MODELS[kind]().to(dtype).train()
    for label, value in enumerate((0.0, 2.0, -1e4)):  # label 2: masks without a label
        inputs = {
            name: torch.full((1, *shape), value, dtype=dtype) for name, shape in model.config.input_shapes.items()
        }
        model.zero_grad()
        loss = loss_of(model(**inputs, output_tokens=True), label)
        loss.backward()
        assert loss.isfinite(), value
        if dtype != torch.float16:  # there the scaler of gradients leaves out what is too large
            assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None), value


@pytest.mark.parametrize(("kind", "processor"), [("events", CavMaeProcessor), ("masks", AvSegFormerProcessor)])
@pytest.mark.parametrize("level", [0.0, 1.0, 1e4])
def test_processors_of_silence_and_of_constant_signals(kind, processor, level):
    processor = processor.from_config(MODELS[kind]().config)
    sound = processor(audio=np.full(48000, level, np.float32), sampling_rate=16000, return_tensors="pt")
    pictures = processor(images=np.full((3, 20, 30, 3), 7, np.uint8), return_tensors="pt")
    assert all(values.isfinite().all() for values in (*sound.values(), *pictures.values()))


@pytest.mark.parametrize("classes", [1, 2, 10_000])
def test_metrics_of_one_class_and_of_many(classes):
    labels = np.arange(6) % classes
    metrics = event_classification_metrics(np.random.default_rng(0).normal(size=(6, classes)), labels)
    assert 0 <= metrics["accuracy"] <= 1 and 0 <= metrics["mAP"] <= 1
    assert metrics["classes_without_positives"] == max(0, classes - 6)
    assert np.isnan(metrics["mAUC"]) == (classes == 1)
