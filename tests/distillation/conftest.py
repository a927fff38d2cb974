import pytest
import torch

from hf_emktd.distillation import BRANCHES, TeacherSignal
from hf_emktd.models.cav_mae import CavMaeConfig, CavMaeForAudioVisualClassification
from hf_emktd.models.cav_mae.modeling_cav_mae import CavMaeClassifierOutput

STUDENT_GRIDS = {"audio": ((4, 8),), "visual": ((4, 4),), "fusion": ((4, 8), (4, 4))}


@pytest.fixture
def student_grids():
    return STUDENT_GRIDS


@pytest.fixture
def make_tokens():
    """Tokens of every branch for grids and a width, from a seed."""

    def make(grids=STUDENT_GRIDS, width=6, batch=3, seed=0, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)
        counts = {branch: sum(rows * columns for rows, columns in slices) for branch, slices in grids.items()}
        return {
            branch: torch.randn(batch, counts[branch], width, generator=generator, dtype=torch.float64).to(dtype)
            for branch in BRANCHES
        }

    return make


@pytest.fixture
def make_signal(make_tokens):
    """A teacher's signal with random tokens and the given entropies."""

    def make(grids=STUDENT_GRIDS, entropies=None, **kwargs):
        tokens = make_tokens(grids, **kwargs)
        logits = tokens["fusion"].mean(dim=1)
        return TeacherSignal(logits=logits, tokens=tokens, grids=grids, entropies=entropies or {})

    return make


@pytest.fixture
def make_output():
    """What a student returns, from tokens by branch."""

    def make(tokens, logits=None):
        return CavMaeClassifierOutput(logits=logits, **{f"{name}_tokens": value for name, value in tokens.items()})

    return make


@pytest.fixture
def make_model():
    """A tiny CAV-MAE with audio grid 4 x 8 and visual grid 4 x 4, unless sizes are overridden."""

    def make(seed=0, **overrides):
        torch.manual_seed(seed)
        sizes = {"hidden_size": 16, "num_attention_heads": 2, "modality_specific_depth": 1, "patch_size": 8}
        inputs = {"audio_length": 64, "num_mel_bins": 32, "image_size": 32, "num_labels": 5}
        return CavMaeForAudioVisualClassification(CavMaeConfig(**(sizes | inputs | overrides)))

    return make


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return {
        "input_values": torch.randn(2, 64, 32, generator=generator),
        "pixel_values": torch.randn(2, 3, 32, 32, generator=generator),
        "labels": torch.tensor([0, 3]),
    }
