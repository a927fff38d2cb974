"""Metrics of a split against a loop by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_runs import make_model

from hf_emktd.data import AudioVisualCollator
from hf_emktd.metrics import event_classification_metrics
from hf_emktd.models.cav_mae import CavMaeProcessor
from hf_emktd.training import ClipData, DataArguments, EvaluationArguments, evaluate_model
from hf_emktd.training.evaluation import frame_indices
from hf_emktd.training.evaluation_arguments import MODALITIES


@pytest.fixture
def model():
    model = make_model(seed=5)
    torch.nn.init.normal_(model.classifier.dense.weight)  # answers that differ between clips
    return model


@pytest.fixture
def framed(data) -> ClipData:
    """The data with four different frames in each test clip."""
    clips = data.features["test"]
    frames = [[clips[(index + step) % 7]["frames"][0] for step in range(4)] for index in range(7)]
    data.features["test"] = clips.remove_columns("frames").add_column(
        "frames", frames, feature=clips.features["frames"]
    )
    data.args.num_frames = 4
    return data


def logits_by_hand(model, data, modality, frame, processor=None):
    rows = []
    for view in data.plain_views("test", processor=processor, frame_index=frame):
        batch = AudioVisualCollator()([view])
        with torch.no_grad():
            rows.append(model.eval()(**{name: batch[name] for name in MODALITIES[modality]}).logits[0].double())
    return torch.stack(rows).numpy()


def approx(metrics, clips=7):
    return pytest.approx(metrics | {"clips": clips}, rel=1e-5, nan_ok=True)


class TestByHand:
    @pytest.mark.parametrize("scores", ["logits", "softmax"])
    def test_the_middle_frame(self, model, data, scores):
        results = evaluate_model(model, data, EvaluationArguments(batch_size=3, scores=scores))
        assert list(results) == ["both", "audio", "visual"]
        labels = data.features["test"]["label"][:]
        for modality, metrics in results.items():
            logits = logits_by_hand(model, data, modality, None)
            assert metrics == approx(event_classification_metrics(logits, labels, scores=scores))

    def test_softmax_averaged_over_the_frames(self, model, framed):
        args = EvaluationArguments(frames=10, batch_size=4)  # of the four that are stored
        results = evaluate_model(model, framed, args)
        labels = framed.features["test"]["label"][:]
        for modality in ("both", "visual"):
            frames = [logits_by_hand(model, framed, modality, frame) for frame in range(4)]
            shares = [np.exp(logits) / np.exp(logits).sum(-1, keepdims=True) for logits in frames]
            assert not np.allclose(shares[0], shares[1])
            assert results[modality] == approx(event_classification_metrics(np.mean(shares, axis=0), labels))
        sound = logits_by_hand(model, framed, "audio", None)
        assert results["audio"] == approx(event_classification_metrics(sound, labels))

    def test_a_student_of_another_size_sees_its_own_views(self, data):
        student = make_model(seed=5, image_size=8)
        processor = CavMaeProcessor.from_config(student.config)
        results = evaluate_model(student, data, EvaluationArguments(modalities=["visual"]), processor)
        expected = logits_by_hand(student, data, "visual", None, processor)
        assert results == {"visual": approx(event_classification_metrics(expected, data.features["test"]["label"][:]))}


class TestFrames:
    @pytest.mark.parametrize(
        "frames, stored, expected",
        [(1, 10, [None]), (10, 10, list(range(10))), (10, 4, [0, 1, 2, 3]), (3, 10, [1, 5, 8]), (2, 4, [1, 3])],
    )
    def test_evenly_spaced(self, frames, stored, expected):
        assert frame_indices(frames, stored) == expected


class TestSplits:
    def test_validation_where_there_is_no_test_split(self, model, data):
        del data.source.splits["test"], data.features["test"]
        assert evaluate_model(model, data, EvaluationArguments())["both"]["clips"] == 6

    def test_named_split(self, model, data):
        assert evaluate_model(model, data, EvaluationArguments(split="train"))["both"]["clips"] == 12


class TestOneSense:
    @pytest.fixture
    def pictures(self, table, processor) -> ClipData:
        """The same table without its sounds."""
        lines = [",".join(line.split(",")[:3]) for line in table.read_text().splitlines()]
        path = table.with_name("pictures.csv")
        path.write_text("\n".join(lines) + "\n")
        return ClipData(DataArguments(dataset=str(path)), processor)

    def test_modalities_that_the_clips_lack_are_left_out(self, model, pictures, warnings_of_transformers):
        results = evaluate_model(model, pictures, EvaluationArguments())
        assert list(results) == ["visual"]
        assert "no input for both, audio: evaluated with visual only" in warnings_of_transformers.text

    def test_nothing_left(self, model, pictures):
        with pytest.raises(ValueError, match="have no input for audio; try other modalities"):
            evaluate_model(model, pictures, EvaluationArguments(modalities=["audio"]))


class TestModelOfOneModality:
    @pytest.mark.parametrize("modality", ["audio", "visual"])
    def test_is_given_its_own_input(self, data, modality, warnings_of_transformers):
        student = make_model(seed=5, modalities=[modality])
        processor = CavMaeProcessor.from_config(student.config)
        results = evaluate_model(student, data, EvaluationArguments(), processor)
        expected = logits_by_hand(student, data, modality, None, processor)
        assert results == {modality: approx(event_classification_metrics(expected, data.features["test"]["label"][:]))}
        assert not warnings_of_transformers.text
        asked = EvaluationArguments(modalities=["both", modality])
        assert evaluate_model(student, data, asked, processor) == results
        assert f"no input for both: evaluated with {modality} only" in warnings_of_transformers.text

    def test_cannot_be_asked_for_the_other(self, data):
        student = make_model(seed=5, modalities=["audio"])
        with pytest.raises(ValueError, match="takes input_values cannot be evaluated with visual, only with audio"):
            evaluate_model(student, data, EvaluationArguments(modalities=["visual"]))


def test_the_model_can_still_be_trained(model, data):
    """Evaluation leaves no mark: accelerate would take a marked model for one that it has wrapped already."""
    forward = model.forward
    evaluate_model(model, data, EvaluationArguments(modalities=["both"]))
    assert not hasattr(model, "_is_accelerate_prepared") and model.forward == forward
    batch = AudioVisualCollator()([data.plain_views("test")[0]])
    model(**{name: batch[name] for name in MODALITIES["both"]}).logits.sum().backward()
    assert model.classifier.dense.weight.grad is not None


@pytest.mark.parametrize(
    "options, message",
    [
        ({"modalities": ["smell"]}, "modalities must be among both, audio, visual, got smell"),
        ({"modalities": []}, "modalities must be among both, audio, visual, got none"),
        ({"scores": "ranks"}, "scores must be one of logits, softmax, got 'ranks'"),
        ({"frames": 0}, "frames must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        EvaluationArguments(**options)
