from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_emktd import AvSegFormerFeatureExtractor, CavMaeFeatureExtractor
from hf_emktd.export.sound_graph import sound_graph

RATE = 16000


def sounds() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    times = np.arange(RATE) / RATE
    return {
        "noise": random.normal(0, 0.1, 2 * RATE),
        "quiet": random.normal(0, 1e-4, RATE),
        "tone": 0.3 * np.sin(2 * np.pi * 440 * times),
        "off_centre": 0.4 + random.normal(0, 0.01, RATE),
    }


@pytest.mark.parametrize(("name", "samples"), sounds().items())
def test_the_graph_hears_as_kaldi_does(name, samples):
    extractor = CavMaeFeatureExtractor(audio_length=128)
    graph, _ = sound_graph(extractor)
    waveform = samples.astype(np.float32)
    expected = extractor(waveform, RATE, return_tensors="pt")["input_values"]
    with torch.inference_mode():
        torch.testing.assert_close(graph(torch.from_numpy(waveform)[None]), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("samples", [15600, 30000, 5 * RATE])
def test_the_graph_hears_as_vggish_does(samples):
    extractor = AvSegFormerFeatureExtractor()
    graph, shortest = sound_graph(extractor)
    waveform = np.random.default_rng(1).normal(0, 0.1, samples).astype(np.float32)
    assert shortest == 15600
    with torch.inference_mode():
        found = graph(torch.from_numpy(waveform)[None])
    np.testing.assert_allclose(found[0].numpy(), extractor.log_mel(waveform, RATE), atol=1e-4)


def test_other_extractors_have_no_graph(processor):
    assert sound_graph(processor.image_processor) is None
