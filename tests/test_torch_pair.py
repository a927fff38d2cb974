"""A torchaudio that does not fit torch."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata

import pytest

# How builds that do not fit fail: a library that is not there, a symbol that is not, and torchaudio's own check.
FAULTS = {
    "library": "import ctypes; ctypes.CDLL('libcudart.so.99')",
    "symbol": "raise OSError('libtorchaudio.so: undefined symbol: _ZNK3c105Error4whatEv')",
    "check": "raise RuntimeError('Detected that PyTorch and TorchAudio were compiled with different CUDA versions.')",
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_wrong_pair_says_in_one_message_what_to_install(fault, tmp_path):
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text(fault)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", "import hf_emktd"], env=environment, capture_output=True, text=True, timeout=120
    )
    message = done.stderr.splitlines()[-1]
    assert message.startswith("ImportError: torch ") and "do not go together" in message
    assert message.endswith("pip install 'torch>=2.11,<2.13' 'torchaudio>=2.11,<2.12'.")


def test_the_message_names_the_ranges_of_the_package():
    required = [name for name in metadata.requires("hf_emktd") if name.startswith("torch")]
    assert sorted(required) == ["torch<2.13,>=2.11", "torchaudio<2.12,>=2.11"]
