"""MJ, MF and the two controls of a model of masks on a data set."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import tiny_runs
import tiny_scenes
import torch

from hf_emktd.metrics import segmentation_metrics
from hf_emktd.models.avsegformer import AvSegFormerProcessor
from hf_emktd.models.cav_mae import CavMaeProcessor
from hf_emktd.training import DataArguments, EvaluationArguments, SceneData, evaluate_model, open_clips

SCENES = {"num_train": 4, "num_validation": 2, "num_test": 5}


@pytest.fixture(scope="module")
def model():
    return tiny_scenes.make_model(num_frames=5)


@pytest.fixture(scope="module")
def data(model, tmp_path_factory) -> SceneData:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        args = DataArguments(dataset="touchtone_scenes", dataset_options=str(SCENES).replace("'", '"'))
        return open_clips(args, AvSegFormerProcessor.from_config(model.config), model_config=model.config)


def logits_of(model, views) -> torch.Tensor:
    rows = [views[index] for index in range(len(views))]
    inputs = {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in model.config.input_shapes}
    with torch.no_grad():
        return model.eval()(**inputs).logits


def test_conditions_and_values(model, data):
    results = evaluate_model(model, data, EvaluationArguments(batch_size=2))
    assert list(results) == ["both", "swapped_sound", "silence"]
    assert results["both"]["clips"] == 5 and 0 <= results["both"]["MJ"] <= 1
    assert results["silence"].keys() == {"mask_share", "peak_probability", "clips", "frames"}
    views = data.plain_views("test")
    labels = torch.stack([torch.as_tensor(views[index]["labels"]) for index in range(5)])
    from hf_emktd.metrics import frame_statistics

    expected = segmentation_metrics(frame_statistics(logits_of(model, views), labels))
    for name, value in expected.items():
        assert results["both"][name] == pytest.approx(value, rel=1e-4), name


def test_controls_change_the_sound_alone(data):
    own, swapped, silence = (data.plain_views("test", sound=sound) for sound in ("own", "swapped", "silence"))
    for other in (swapped, silence):
        np.testing.assert_array_equal(own[0]["pixel_values"], other[0]["pixel_values"])
        assert not np.array_equal(own[0]["input_values"], other[0]["input_values"])
    np.testing.assert_array_equal(own[1]["input_values"], swapped[0]["input_values"])
    assert np.ptp(silence[0]["input_values"]) == 0


def test_without_controls_and_by_the_whole_data_set(model, data):
    args = EvaluationArguments(controls=["none"], protocol="dataset", split="validation")
    results = evaluate_model(model, data, args)
    assert list(results) == ["both"] and results["both"]["clips"] == 2


def test_frames_cannot_be_averaged(model, data):
    with pytest.raises(ValueError, match="frames=10"):
        evaluate_model(model, data, EvaluationArguments(frames=10))


@pytest.mark.parametrize("option", [{"controls": ["noise"]}, {"protocol": "mean"}])
def test_unknown_options(option):
    with pytest.raises(ValueError, match="must be"):
        EvaluationArguments(**option)


def test_what_it_tells_apart(data):
    assert data.label_names == ["sounding"]


def test_data_of_the_other_task_is_refused(model):
    classifier = tiny_runs.make_model()
    with pytest.raises(ValueError, match="touchtone_scenes is a data set for audio-visual-segmentation"):
        open_clips(
            DataArguments(dataset="touchtone_scenes"),
            CavMaeProcessor.from_config(classifier.config),
            model_config=classifier.config,
        )
    with pytest.raises(ValueError, match="touchtone is a data set for audio-visual-classification"):
        processor = AvSegFormerProcessor.from_config(model.config)
        open_clips(DataArguments(dataset="touchtone"), processor, model_config=model.config)
