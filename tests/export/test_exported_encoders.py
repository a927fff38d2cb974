"""Two encoders of transformers, joined, in other formats; all of them in tests/torture/test_export_torture.py."""

from __future__ import annotations

import pytest
import torch
from transformers import set_seed

from hf_emktd import AudioVisualEncoderForAudioVisualClassification
from hf_emktd.export import export_model
from hf_emktd.export.graphs import example_inputs
from tiny_encoders import make_config

pytest.importorskip("onnx"), pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")


@pytest.mark.parametrize(("vision", "name"), [("swin", "onnx"), ("dinov2", "torch-export")])
def test_files_give_what_the_model_gives_in_any_batch(vision, name, tmp_path):
    set_seed(0)
    model = AudioVisualEncoderForAudioVisualClassification(make_config(vision)).eval()
    (file,) = export_model(model, tmp_path, [name])
    runner = file.load(model.config)
    for batch in (1, 4):
        inputs = example_inputs(model.config, "both", batch, seed=7)
        with torch.inference_mode():
            expected = model(**inputs).logits
        assert expected.std() > 1e-3
        torch.testing.assert_close(runner(**inputs), expected, atol=1e-4, rtol=0)
