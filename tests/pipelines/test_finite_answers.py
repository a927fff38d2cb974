"""Answers and sounds that are no numbers are refused with the name of the clip, not ranked or left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor, pipeline

from hf_emktd.hub import predict_clip, segment_clip

TASKS = {"model_dir": "audio-visual-classification", "segmenter_dir": "audio-visual-segmentation"}
MESSAGE = r"the model's answer to .*clip\.mp4 is NaN or infinite: its weights are broken, or its precision"


def overflowing(folder):
    """A model whose last numbers are too large for it, as float16 makes them."""
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e30)
    return model


@pytest.mark.parametrize("fixture", TASKS)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_pipelines_name_the_clip(fixture, batch_size, media, request):
    folder = request.getfixturevalue(fixture)
    answers = pipeline(TASKS[fixture], model=overflowing(folder), processor=str(folder), device="cpu")
    with pytest.raises(ValueError, match=MESSAGE):
        answers([str(media["clip"])], batch_size=batch_size)


def test_predictions_and_segmentations_name_the_clip(model_dir, segmenter_dir, media):
    for answer, folder in ((predict_clip, model_dir), (segment_clip, segmenter_dir)):
        with pytest.raises(ValueError, match=MESSAGE):
            answer(overflowing(folder), AutoProcessor.from_pretrained(folder), media["clip"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_waveform_that_is_no_numbers_is_refused(model_dir, value):
    waveform = np.zeros(8000, np.float32)
    waveform[17] = value
    classifier = pipeline(TASKS["model_dir"], model=str(model_dir), device="cpu")
    with pytest.raises(ValueError, match="a waveform must be of finite samples"):
        classifier({"audio": waveform, "sampling_rate": 16000})
