from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import pipeline

from hf_emktd.data import write_clip
from hf_emktd.export import (
    FORMATS,
    OPSET,
    ExportError,
    Measurement,
    OnnxModel,
    comparison_table,
    export_model,
    own_modalities,
)
from hf_emktd.export.formats import load_executorch, write_executorch
from hf_emktd.export.graphs import LogitsGraph, dynamic_shapes, example_inputs
from hf_emktd.hub import predict_clip
from tiny_segmenter import make_segmenter

onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

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


@torch.inference_mode()
def difference(model, runner, modality: str, batch: int) -> float:
    inputs = example_inputs(model.config, modality, batch, seed=7)
    logits = runner(**inputs)
    assert logits.shape == (batch, 3)
    return (logits - model(**inputs).logits).abs().max().item()


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_files_give_what_the_model_gives_in_any_batch(model, exported, batch):
    _, files = exported
    exact = [(file.format, file.modality) for file in files if FORMATS[file.format].exact]
    assert exact == [("onnx", "both"), ("onnx", "audio"), ("onnx", "visual"), ("torch-export", "both")]
    for file in files:
        if FORMATS[file.format].exact:
            assert difference(model, file.load(model.config), file.modality, batch) <= 1e-4
            assert file.largest_difference <= 1e-4


def test_int8_is_near_and_small(model, exported):
    folder, files = exported
    (file,) = [file for file in files if file.format == "onnx-int8"]
    inputs = example_inputs(model.config, "both", 64, seed=5)
    with torch.inference_mode():
        expected = model(**inputs).logits
    logits = file.load(model.config)(**inputs)
    assert 0 < (logits - expected).abs().max() < 0.1 * expected.std() * 5
    assert (logits.argmax(-1) == expected.argmax(-1)).float().mean() > 0.95
    plain = onnx.load(folder / "model.onnx")
    quantised = onnx.load(file.path)
    assert [node.op_type for node in quantised.graph.node].count("MatMulInteger") > 10
    types = {tensor.name: tensor.data_type for tensor in quantised.graph.initializer}
    rounded = [name for name, kind in types.items() if kind == onnx.TensorProto.INT8]
    assert len(rounded) > 10 and file.path.stat().st_size < 0.6 * (folder / "model.onnx").stat().st_size
    assert plain.opset_import[0].version == OPSET
    assert not any(node.metadata_props for node in plain.graph.node)


def test_the_number_of_clips_is_free_in_the_file(exported):
    folder, _ = exported
    graph = onnx.load(folder / "model.onnx").graph
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes["input_values"][1:] == [64, 64] and shapes["pixel_values"][1:] == [3, 32, 32]
    assert len({shape[0] for shape in shapes.values()}) == 1 and isinstance(shapes["logits"][0], str)


def test_a_segmenter_is_traced_for_any_clips_and_frames():
    """ONNX of it takes half a minute; this is the part of it that may freeze a number."""
    model = make_segmenter()
    assert own_modalities(model.config) == ["both"]
    inputs = example_inputs(model.config, "both", batch=2)
    shapes = dynamic_shapes(model.config, "both")
    program = torch.export.export(LogitsGraph(model, "both"), tuple(inputs.values()), dynamic_shapes=shapes)
    sound, pictures = (values[:1, :2].repeat(3, 1, *[1] * (values.ndim - 2)) for values in inputs.values())
    with torch.inference_mode():
        expected = model(input_values=sound, pixel_values=pictures).logits
        torch.testing.assert_close(program.module()(sound, pictures), expected, atol=1e-4, rtol=0)


class TestRefusals:
    def test_of_what_cannot_be_asked(self, model, tmp_path):
        with pytest.raises(ValueError, match="format must be among onnx, onnx-int8"):
            export_model(model, tmp_path, ["coreml"])
        with pytest.raises(ValueError, match="modality 'audio' cannot be exported of this model, only both"):
            export_model(make_segmenter(), tmp_path, ["onnx"], ["audio"])

    def test_of_files_that_differ(self, model, tmp_path, monkeypatch):
        """A format that gives what another model gives."""
        other = type(model)(model.config).eval()
        wrong = dataclasses.replace(
            FORMATS["torch-export"], write=lambda _, *rest: FORMATS["torch-export"].write(other, *rest)
        )
        monkeypatch.setitem(FORMATS, "wrong", wrong)
        with pytest.raises(ExportError, match=r"model\.pt2 differ from the model's by"):
            export_model(model, tmp_path, ["wrong"])
        assert not list(tmp_path.iterdir())

    def test_of_files_that_cannot_be_run(self, model, tmp_path, monkeypatch):
        format_ = dataclasses.replace(FORMATS["torch-export"], load=lambda *_: lambda **__: torch.empty(2).view(3))
        monkeypatch.setitem(FORMATS, "unfit", format_)
        with pytest.raises(ExportError, match=r"model\.pt2 was written but cannot be run \(shape '\[3\]' is invalid"):
            export_model(model, tmp_path, ["unfit"])
        assert not list(tmp_path.iterdir())

    def test_of_executorch_where_it_is_not_installed(self, model, tmp_path):
        try:
            import executorch  # noqa: F401
        except ImportError:
            for call in (
                lambda: write_executorch(model, "both", tmp_path / "a.pte"),
                lambda: load_executorch(tmp_path / "a.pte", model.config, "both"),
            ):
                with pytest.raises(ExportError, match="pip install 'executorch"):
                    call()


class TestOnnxModel:
    def test_has_the_call_contract_of_the_model(self, model, exported):
        folder, _ = exported
        runtime = OnnxModel.from_pretrained(folder)
        assert runtime.config.id2label == model.config.id2label and runtime.to("cuda").eval() is runtime
        for modality in ("both", "audio", "visual"):
            inputs = example_inputs(model.config, modality, 4)
            with torch.inference_mode():
                torch.testing.assert_close(runtime(**inputs).logits, model(**inputs).logits, atol=1e-4, rtol=0)

    def test_takes_the_int8_files_when_asked(self, model, exported):
        folder, _ = exported
        inputs = example_inputs(model.config, "both", 4)
        exact, rounded = (OnnxModel.from_pretrained(folder, quantized=flag)(**inputs).logits for flag in (False, True))
        assert 0 < (exact - rounded).abs().max() < 1

    def test_says_what_is_not_there(self, exported, tmp_path):
        folder, _ = exported
        with pytest.raises(ValueError, match="--format onnx --output_dir"):
            OnnxModel.from_pretrained(tmp_path)
        runtime = OnnxModel.from_pretrained(folder, quantized=True)
        with pytest.raises(
            ValueError, match="this export answers both, but was given pixel_values; export visual too"
        ):
            runtime(pixel_values=torch.zeros(1, 3, 32, 32))


def test_the_table():
    rows = [
        Measurement("teacher", "pytorch", "both", 658_957_524, 1234.56, 1200.0, 1500.4),
        Measurement("model", "onnx-int8", "both", 12_000_000, 40.0, 39.0, None, 0.0123, 0.905),
    ]
    assert comparison_table(rows, "accuracy").splitlines() == [
        "| model | format | input | MB | ms | CPU ms | peak MB | largest difference | accuracy |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| teacher | pytorch | both | 658.96 | 1,234.6 | 1,200.0 | 1,500 |  |  |",
        "| model | onnx-int8 | both | 12.00 | 40.0 | 39.0 |  | 1.2e-02 | 90.5 |",
    ]


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
    sound = (0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE // 2) / RATE)).astype(np.float32)
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
