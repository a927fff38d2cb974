"""What a student costs here."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import make_model

from hf_emktd.metrics import count_parameters
from hf_emktd.models.cav_mae import CavMaeConfig
from hf_emktd.search import measure_latency, measure_peak_memory
from hf_emktd.search.candidates import on_meta

# 13 M weights and hardly any activations; the same activations again on ten times the tokens
WIDE = {"hidden_size": 512, "num_attention_heads": 4, "modality_specific_depth": 1}
INPUTS = {"num_mel_bins": 32, "audio_length": 32, "image_size": 32, "patch_size": 16, "num_labels": 3}


def weights_mb(config: CavMaeConfig) -> float:
    return 4 * count_parameters(on_meta(config)) / 1e6


def test_latency_is_positive():
    assert measure_latency(make_model().config, repetitions=2) > 0


def test_memory_is_that_of_the_weights_where_activations_are_small():
    config = CavMaeConfig(**WIDE, **INPUTS)
    expected = weights_mb(config)
    assert 30 < expected < measure_peak_memory(config) < 1.4 * expected


def test_memory_sees_activations():
    few, many = (
        CavMaeConfig(**(WIDE | INPUTS | {"hidden_size": 64, "image_size": side, "patch_size": 8}))
        for side in (32, 256)
    )
    # the logits of one head over 1,024 tokens of the picture are 4 MB
    assert measure_peak_memory(many) > measure_peak_memory(few) + weights_mb(many) - weights_mb(few) + 4


def test_memory_of_this_process_is_left_alone():
    config = make_model().config
    before = torch.get_num_threads(), torch.random.get_rng_state()
    measure_peak_memory(config)
    assert torch.get_num_threads() == before[0] and torch.equal(torch.random.get_rng_state(), before[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_memory_on_cuda_is_that_of_the_weights_where_activations_are_small():
    config = CavMaeConfig(**WIDE, **INPUTS)
    expected = weights_mb(config)
    assert expected < measure_peak_memory(config, "cuda") < 1.4 * expected


def test_other_devices_are_refused():
    with pytest.raises(ValueError, match="cpu and cuda, not on meta"):
        measure_peak_memory(make_model().config, "meta")
