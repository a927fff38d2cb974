from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import pipeline

from hf_emktd import AvSegFormerFeatureExtractor, CavMaeFeatureExtractor
from hf_emktd.data import write_clip
from hf_emktd.export import OnnxModel
from hf_emktd.export.sound_graph import sound_graph
from hf_emktd.hub import predict_clip

RATE = 16000
# refuses what a small device does not have, then runs the file as it would be run there
WITHOUT_TORCH = """
import sys, runpy
for name in ("torch", "transformers", "hf_emktd", "torchaudio", "datasets"):
    sys.modules[name] = None
sys.argv = [sys.argv[1], sys.argv[2]]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


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


@pytest.mark.parametrize("samples", [400, 3000, 10000, 50000])
def test_the_written_graph_takes_any_length(processor, exported, samples):
    folder, _ = exported
    session = onnxruntime.InferenceSession(str(folder / "sound.onnx"))
    waveform = np.random.default_rng(2).normal(0, 0.1, samples).astype(np.float32)
    (found,) = session.run(None, {"waveform": waveform[None]})
    expected = processor(audio=waveform, sampling_rate=RATE, return_tensors="np")["input_values"]
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    random = np.random.default_rng(3)
    frames = np.repeat(random.integers(0, 255, (10, 6, 9, 3), np.uint8), 8, axis=1).repeat(8, axis=2)
    sound = sounds()["tone"][: RATE // 2].astype(np.float32)
    write_clip(folder / "clip.mp4", frames, 20, sound)
    write_clip(folder / "soundless.mp4", frames, 20)
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["clip", "soundless"])
def test_the_folder_answers_without_torch(model, processor, exported, clips, name):
    folder, _ = exported
    command = [sys.executable, "-c", WITHOUT_TORCH, str(folder / "standalone.py"), str(clips[name])]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    lines = [line.split(maxsplit=1) for line in ended.stdout.splitlines()]
    expected = predict_clip(model, processor, clips[name]).best
    assert [label for _, label in lines] == [label for label, _ in expected]
    assert [float(score) for score, _ in lines] == pytest.approx([score for _, score in expected], abs=2e-3)


def test_the_pipeline_runs_on_onnxruntime(model, processor, exported, clips):
    folder, _ = exported
    classifier = pipeline("audio-visual-classification", model=OnnxModel.from_pretrained(folder))
    answers = classifier([clips["clip"], clips["soundless"]], batch_size=2, by_modality=True)
    for answer, name in zip(answers, ("clip", "soundless"), strict=True):
        expected = predict_clip(model, processor, clips[name])
        assert list(answer["modalities"]) == list(expected.top)
        scores = {entry["label"]: entry["score"] for entry in answer["labels"]}
        assert scores == pytest.approx(dict(expected.best), abs=1e-4)
