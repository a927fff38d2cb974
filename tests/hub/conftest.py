from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import close_session, constants

from hf_emktd import (
    AvSegFormerForAudioVisualSegmentation,
    AvSegFormerProcessor,
    CavMaeForAudioVisualClassification,
    CavMaeProcessor,
)
from hf_emktd.hub import DataFacts, DistillationSummary, EvaluationResult, ModelFacts, ObjectiveFacts

sys.path.insert(0, str(Path(__file__).parents[1]))

from hub_server import NO_PROXY, HubServer
from tiny_classifier import make_classifier
from tiny_segmenter import make_segmenter


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture
def this_hub(hub, monkeypatch, tmp_path):
    """The Hub of this process, with an empty cache."""
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "hub_cache"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # it remembers the last test's
    monkeypatch.setenv("NO_PROXY", NO_PROXY)
    close_session()
    yield hub
    close_session()


@pytest.fixture(scope="session")
def model() -> CavMaeForAudioVisualClassification:
    return make_classifier()


@pytest.fixture(scope="session")
def processor(model) -> CavMaeProcessor:
    return CavMaeProcessor.from_config(model.config)


@pytest.fixture(scope="session")
def segmenter() -> AvSegFormerForAudioVisualSegmentation:
    return make_segmenter()


@pytest.fixture(scope="session")
def segmentation_processor(segmenter) -> AvSegFormerProcessor:
    return AvSegFormerProcessor.from_config(segmenter.config)


@pytest.fixture
def inputs(model) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "input_values": torch.randn(2, 32, 16, generator=generator),
        "pixel_values": torch.randn(2, 3, 32, 32, generator=generator),
    }


@pytest.fixture
def summary() -> DistillationSummary:
    """A summary with every field filled; the results are the VGGSound row of the EM-KTD paper."""
    return DistillationSummary(
        student=ModelFacts("runs/student", 10_661_685, 5_274_535_872, "CavMaeForAudioVisualClassification"),
        teacher=ModelFacts(
            "org/teacher", 164_739_381, 66_198_445_824, "CavMaeForAudioVisualClassification", "org/teacher"
        ),
        data=DataFacts(
            "VGGSound",
            clips={"train": 183_727, "test": 15_446},
            left_out={"train": {"missing": 3, "corrupt": 1}, "test": {"silent": 2}},
            manifest_hash="0123abcd",
            classes=309,
            hub_id="org/vggsound",
        ),
        objectives=[
            ObjectiveFacts("LogitDistillation", {"name": "kd", "temperature": 2.0, "weight": 1.0}, "@misc{kd,\n}"),
            ObjectiveFacts(
                "EntropyMonitoredDistillation",
                {"name": "em_ktd", "weight": 666.0, "kernel": {"name": "rbf", "gamma": 0.5}},
                "@misc{emktd,\n}",
            ),
        ],
        entropy_statistics={"audio": {"accuracy": 0.55, "entropy_quartiles": [0.1, 0.25, 1.5]}},
        results=[
            EvaluationResult(
                "test",
                {"accuracy": 0.62, "mAP": 0.634, "mAUC": 0.979, "clips": 15_446},
                {"accuracy": 0.639, "mAP": 0.65, "mAUC": 0.979},
            )
        ],
        hyper_parameters={"learning_rate": 1e-3, "num_train_epochs": 10},
        command="accelerate launch scripts/distill.py --teacher org/teacher",
        training_seconds=24_300,
        limitations=["Clips come from the web."],
    )


@pytest.fixture
def mask_summary() -> DistillationSummary:
    """That of a model of masks, with a control; the results are the S4 row of the EM-KTD paper."""
    architecture = "AvSegFormerForAudioVisualSegmentation"
    return DistillationSummary(
        student=ModelFacts("runs/student", 32_000_000, 10**10, architecture, visual_parameters=3_409_760),
        teacher=ModelFacts("runs/teacher", 186_000_000, 10**11, architecture, visual_parameters=81_443_008),
        data=DataFacts("AVSBench S4", clips={"train": 3_452, "test": 740}),
        objectives=[ObjectiveFacts("MaskLogitDistillation", {"name": "kd", "weight": 1.0})],
        results=[
            EvaluationResult(
                "test",
                {"MJ": 0.7981, "MF": 0.8786, "mask_share": 0.12, "peak_probability": 0.98, "clips": 740},
                {"MJ": 0.8315, "MF": 0.904},
            ),
            EvaluationResult("test", {"MJ": 0.5, "mask_share": 0.03, "clips": 740}, {"MJ": 0.6}, "silence"),
        ],
        task="audio-visual-segmentation",
    )
