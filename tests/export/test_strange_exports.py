"""Folders of exports that were edited."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from hf_emktd.export import OnnxModel


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    return Path(shutil.copytree(exported[0], tmp_path / "export"))


def edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 64}, "but its config.json says"),
        ({"id2label": {"0": "bell"}, "label2id": None}, "but its config.json says"),
        ({"hidden_size": 2**40}, r"config\.json cannot be used"),
        ({"audio_length": -64}, r"config\.json cannot be used"),
        ({"model_type": "bert"}, "which this library does not export"),
        ({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}, r"config\.json cannot be used"),
    ],
)
def test_a_config_that_does_not_fit(folder, fields, message):
    edit(folder / "config.json", **fields)
    with pytest.raises(ValueError, match=message):
        OnnxModel.from_pretrained(folder)


@pytest.mark.parametrize("content", [b"", b"\x80\x04]q.", b"\xff" * 1000])
def test_files_that_are_no_onnx(folder, content):
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.onnx cannot be run|but its config\.json says"):
        OnnxModel.from_pretrained(folder)


def test_a_file_of_another_sense(folder):
    shutil.copy(folder / "model_audio.onnx", folder / "model_visual.onnx")
    with pytest.raises(ValueError, match=r"model_visual\.onnx takes .*input_values.* but its config\.json says"):
        OnnxModel.from_pretrained(folder)


def test_weights_outside_of_the_folder(folder):
    graph = onnx.load(folder / "model_audio.onnx")
    weight = max(graph.graph.initializer, key=lambda one: len(one.raw_data))
    (folder.parent / "secret").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "../secret", "offset": "0", "length": "8"}.items():
        weight.external_data.add(key=key, value=value)
    (folder / "model_audio.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(ValueError, match=r"model_audio\.onnx cannot be run"):
        OnnxModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("part", "fields"),
    [
        ("sound", {"shape": [10**9, 10**9]}),
        ("picture", {"size": 10**9}),
        ("clip", {"num_frames": 10**9}),
        ("clip", {"seconds": 10**9}),
    ],
)
def test_constants_of_other_sizes_end_the_program_without_the_package(folder, part, fields):
    settings = json.loads((folder / "preprocessing.json").read_text())
    settings[part] |= fields
    (folder / "preprocessing.json").write_text(json.dumps(settings))
    command = [sys.executable, folder / "standalone.py", "clip.mp4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "does not fit the ONNX files" in done.stderr.splitlines()[-1]
