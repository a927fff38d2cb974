"""A saved model travels with its code, and its processor with CAV-MAE's: they load where hf_emktd is not installed."""

import json
import os
import subprocess
import sys

import numpy as np
import torch

from hf_emktd import CavMaeProcessor

# Refuses hf_emktd as an environment without it does; the editable install would otherwise be found from anywhere.
LOAD = """
import importlib.abc, json, sys

class Without(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_emktd":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
import numpy as np
import torch
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
sound, picture = np.linspace(-1, 1, 4000, dtype=np.float32), np.full((20, 30, 3), 99, dtype=np.uint8)
inputs = processor(audio=sound, images=picture, sampling_rate=16000, return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits
model.save_pretrained(sys.argv[2])
print(json.dumps({"logits": logits.tolist(), "class": type(model).__name__}))
"""


def test_loads_and_runs_without_the_package(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "student")
    processor = CavMaeProcessor.from_config(tiny_model.config)
    processor.save_pretrained(tmp_path / "student")
    assert {path.name for path in (tmp_path / "student").iterdir()} == {
        "config.json",
        "configuration_audio_visual_encoder.py",
        "model.safetensors",
        "modeling_audio_visual_encoder.py",
        "processing_cav_mae.py",
        "processor_config.json",
    }
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, tmp_path / "student", tmp_path / "again"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment | {"HF_HUB_OFFLINE": "1"},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["class"] == "AudioVisualEncoderForAudioVisualClassification"
    sound, picture = np.linspace(-1, 1, 4000, dtype=np.float32), np.full((20, 30, 3), 99, dtype=np.uint8)
    inputs = processor(audio=sound, images=picture, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        expected = tiny_model(**inputs).logits
    torch.testing.assert_close(torch.tensor(result["logits"]), expected, atol=1e-5, rtol=0)
    assert (tmp_path / "again" / "modeling_audio_visual_encoder.py").is_file()
