"""Saved models travel with their code: they load where hf_emktd is not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_emktd import CavMaeForAudioVisualClassification, CavMaeProcessor

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
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor
from transformers.models.auto.image_processing_auto import AutoImageProcessor

folder = sys.argv[1]
"""

LOAD_ALL = """
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
for auto in (AutoConfig, AutoFeatureExtractor, AutoImageProcessor):
    print(type(auto.from_pretrained(folder, trust_remote_code=True)).__module__.split(".")[0], file=sys.stderr)
sound, picture = np.linspace(-1, 1, 4000, dtype=np.float32), np.full((20, 30, 3), 99, dtype=np.uint8)
inputs = processor(audio=sound, images=picture, sampling_rate=16000, return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits
try:
    processor(clips="clip.mp4")
except ImportError as error:
    reason = str(error)
model.save_pretrained(sys.argv[2])
processor.save_pretrained(sys.argv[2])
frozen = sum(not parameter.requires_grad for parameter in model.parameters())
print(json.dumps({"logits": logits.tolist(), "reason": reason, "frozen": frozen, "class": type(model).__name__}))
"""


@pytest.fixture
def student(tiny_model, tmp_path) -> Path:
    tiny_model.save_pretrained(tmp_path / "student")
    CavMaeProcessor.from_config(tiny_model.config).save_pretrained(tmp_path / "student")
    return tmp_path / "student"


def run(code: str, tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess:
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment |= {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", WITHOUT_PACKAGE + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120)


def test_files_and_auto_map(student):
    assert {path.name for path in student.iterdir()} == {
        "config.json",
        "configuration_cav_mae.py",
        "model.safetensors",
        "modeling_cav_mae.py",
        "processing_cav_mae.py",
        "processor_config.json",
    }
    assert json.loads((student / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_cav_mae.CavMaeConfig",
        "AutoModel": "modeling_cav_mae.CavMaeForAudioVisualClassification",
    }


def test_loads_and_runs_without_the_package(student, tiny_model, tmp_path):
    done = run(LOAD_ALL, tmp_path, student, tmp_path / "again")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["class"] == "CavMaeForAudioVisualClassification"
    assert "pip install hf_emktd" in result["reason"]
    assert result["frozen"] == sum(not parameter.requires_grad for parameter in tiny_model.parameters())

    sound, picture = torch.linspace(-1, 1, 4000).numpy(), torch.full((20, 30, 3), 99, dtype=torch.uint8).numpy()
    processor = CavMaeProcessor.from_pretrained(student)
    inputs = processor(audio=sound, images=picture, sampling_rate=16000, return_tensors="pt")
    torch.testing.assert_close(torch.tensor(result["logits"]), tiny_model(**inputs).logits, atol=1e-5, rtol=0)

    again = CavMaeForAudioVisualClassification.from_pretrained(tmp_path / "again")
    # equal weights; where they lie in memory decides how their products are rounded
    torch.testing.assert_close(again(**inputs).logits, tiny_model(**inputs).logits, atol=1e-6, rtol=0)
    assert (tmp_path / "again" / "modeling_cav_mae.py").read_text() == (student / "modeling_cav_mae.py").read_text()


LOAD_ONE_MODALITY = """
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
sound = np.linspace(-1, 1, 4000, dtype=np.float32)
print(json.dumps(model(**processor(audio=sound, sampling_rate=16000, return_tensors="pt")).logits.tolist()))
"""


def test_a_model_that_only_hears_loads_without_the_package(tiny_config, tmp_path):
    torch.manual_seed(0)
    model = CavMaeForAudioVisualClassification(tiny_config(modalities=["audio"])).eval()
    processor = CavMaeProcessor.from_config(model.config)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "student")
    done = run(LOAD_ONE_MODALITY, tmp_path, tmp_path / "student")
    assert done.returncode == 0, done.stderr
    inputs = processor(audio=torch.linspace(-1, 1, 4000).numpy(), sampling_rate=16000, return_tensors="pt")
    expected = model(**inputs).logits
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected, atol=1e-5, rtol=0)
