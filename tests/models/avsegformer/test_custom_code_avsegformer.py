"""Saved models travel with their code: they load where hf_emktd is not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_emktd import AvSegFormerProcessor
from hf_emktd.models.avsegformer.modeling_avsegformer import initial_sampling_offsets

# Refuses hf_emktd as an environment without it does; the editable install would otherwise be found from anywhere.
WITHOUT_PACKAGE = """
import importlib.abc, json, sys

class Without(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_emktd":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor

folder = sys.argv[1]
"""

LOAD_ALL = """
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
sound, picture = np.linspace(-1, 1, 40000, dtype=np.float32), np.full((3, 20, 30, 3), 99, dtype=np.uint8)
inputs = processor(audio=sound, images=picture, sampling_rate=16000, return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits
try:
    processor(clips="clip.mp4")
except ImportError as error:
    reason = str(error)
model.save_pretrained(sys.argv[2])
processor.save_pretrained(sys.argv[2])
fresh = AutoModel.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=True), trust_remote_code=True)
offsets = fresh.avsegformer.encoder.layers[0].attention.sampling_offsets.bias
result = {"logits": logits[..., ::9, ::9].tolist(), "reason": reason, "offsets": offsets.tolist()}
print(json.dumps({**result, "class": type(model).__name__}))
"""


@pytest.fixture
def student(tiny_model, tmp_path) -> Path:
    tiny_model.save_pretrained(tmp_path / "student")
    AvSegFormerProcessor.from_config(tiny_model.config).save_pretrained(tmp_path / "student")
    return tmp_path / "student"


def run(code: str, tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess:
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment |= {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", WITHOUT_PACKAGE + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120)


def test_files_and_auto_map(student):
    assert {path.name for path in student.iterdir()} == {
        "config.json",
        "configuration_avsegformer.py",
        "model.safetensors",
        "modeling_avsegformer.py",
        "processing_avsegformer.py",
        "processor_config.json",
    }
    assert json.loads((student / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_avsegformer.AvSegFormerConfig",
        "AutoModel": "modeling_avsegformer.AvSegFormerForAudioVisualSegmentation",
    }


def test_loads_and_runs_without_the_package(student, tiny_model, tmp_path):
    done = run(LOAD_ALL, tmp_path, student, tmp_path / "again")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["class"] == "AvSegFormerForAudioVisualSegmentation"
    assert "pip install hf_emktd" in result["reason"]
    # custom code is initialised by other rules than the library's own models
    torch.testing.assert_close(torch.tensor(result["offsets"]), initial_sampling_offsets(tiny_model.config))

    sound, picture = torch.linspace(-1, 1, 40000).numpy(), torch.full((3, 20, 30, 3), 99, dtype=torch.uint8).numpy()
    processor = AvSegFormerProcessor.from_pretrained(student)
    inputs = processor(audio=sound, images=picture, sampling_rate=16000, return_tensors="pt")
    expected = tiny_model(**inputs).logits[..., ::9, ::9]
    torch.testing.assert_close(torch.tensor(result["logits"]), expected, atol=1e-5, rtol=0)
    again = (tmp_path / "again" / "modeling_avsegformer.py").read_text()
    assert again == (student / "modeling_avsegformer.py").read_text()
