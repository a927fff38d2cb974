from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from hf_emktd.metrics import (
    EventClassification,
    accuracy,
    average_frame_probabilities,
    compute_event_metrics,
    d_prime,
    event_classification_metrics,
    mean_average_precision,
    mean_roc_auc,
)

# Class 0 is carried by clips 0 and 2, class 1 by clips 1 and 3, class 2 by none.
SCORES = np.array([[0.9, 0.5, 0.0], [0.8, 0.7, 0.0], [0.3, 0.6, 0.0], [0.1, 0.4, 0.0]])
LABELS = np.array([0, 1, 0, 1])


def golden_data() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(7)
    labels = random.randint(0, 6, size=40)
    logits = random.normal(size=(40, 6)) * 2
    logits[np.arange(40), labels] += 1.5
    return logits, labels


def test_hand_computed_values():
    # class 0 is ranked + - + -: AP (1 + 2/3) / 2, AUC 3/4; class 1 is ranked + - - +: AP (1 + 2/4) / 2, AUC 2/4
    metrics = event_classification_metrics(SCORES, LABELS)
    assert metrics["mAP"] == pytest.approx((5 / 6 + 3 / 4) / 2)
    assert metrics["mAUC"] == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert metrics["d_prime"] == pytest.approx(math.sqrt(2) * 0.3186393639643752)
    assert metrics["accuracy"] == 0.5
    assert metrics["classes_without_positives"] == 1


@pytest.mark.parametrize(
    ("scores", "mean_ap", "mean_auc", "sensitivity"),
    [
        ("logits", 0.38057019898995637, 0.6559770101819734, 0.5678183851150179),
        ("softmax", 0.3952434867030354, 0.7314931103993603, 0.8730435434428243),
    ],
)
def test_equals_the_official_statistics(scores, mean_ap, mean_auc, sensitivity):
    """Golden values: `calculate_stats` and `d_prime` of CAV-MAE's `src/utilities/stats.py` on the same data."""
    metrics = event_classification_metrics(*golden_data(), scores=scores)
    assert metrics["accuracy"] == pytest.approx(0.425)
    assert metrics["mAP"] == pytest.approx(mean_ap, abs=1e-12)
    assert metrics["mAUC"] == pytest.approx(mean_auc, abs=1e-12)
    assert metrics["d_prime"] == pytest.approx(sensitivity, abs=1e-12)


def test_class_ids_multi_hot_and_tensors_agree():
    logits, labels = golden_data()
    expected = event_classification_metrics(logits, labels)
    assert event_classification_metrics(logits, np.eye(6)[labels]) == expected
    assert event_classification_metrics(torch.tensor(logits), torch.tensor(labels)) == expected


def test_bfloat16_logits_are_read():
    assert accuracy(torch.tensor(SCORES, dtype=torch.bfloat16), torch.tensor(LABELS)) == 0.5


def test_any_label_of_a_multi_label_clip_counts_for_accuracy():
    assert accuracy(np.array([[0.1, 0.2, 0.9], [0.9, 0.2, 0.1]]), np.array([[1, 0, 1], [0, 1, 1]])) == 0.5


def test_a_single_class_has_no_auc():
    metrics = event_classification_metrics(SCORES[:, :1], np.zeros(4, dtype=int))
    assert metrics["accuracy"] == metrics["mAP"] == 1.0
    assert math.isnan(metrics["mAUC"]) and math.isnan(metrics["d_prime"])


def test_a_class_all_clips_carry_is_left_out_of_auc_only():
    # class 0 is carried by all; class 1 (clips 0 and 2) is ranked - + + -: AP (1/2 + 2/3) / 2, AUC 2/4
    scores, labels = SCORES[:, :2], np.array([[1, 1], [1, 0], [1, 1], [1, 0]])
    assert mean_roc_auc(scores, labels) == 0.5
    assert mean_average_precision(scores, labels) == pytest.approx((1 + 7 / 12) / 2)


def test_perfect_ranking_has_infinite_d_prime():
    assert d_prime(1.0) == math.inf
    assert d_prime(0.5) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.array([[0.0, np.nan], [0.0, 1.0]]), [0, 1], "1 of 2 clips are NaN or infinite, first in row 0"),
        (np.zeros(3), [0, 1, 2], r"scores must be \(clips, classes\)"),
        (np.zeros((0, 3)), [], r"scores must be \(clips, classes\)"),
        (np.zeros((2, 3)), [0, 3], "whole class ids from 0 to 2"),
        (np.zeros((2, 3)), [0, -100], "whole class ids from 0 to 2"),
        (np.zeros((2, 3)), [0, 1, 2], "labels must have shape"),
        (np.zeros((2, 3)), [[0.3, 0.7, 0.0], [0.0, 0.0, 1.0]], "soft labels"),
    ],
)
def test_unusable_input_is_refused(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        event_classification_metrics(scores, labels)


def test_unknown_scores_option_is_refused():
    with pytest.raises(ValueError, match="scores must be one of"):
        event_classification_metrics(SCORES, LABELS, scores="sigmoid")


def test_frames_are_averaged_after_the_softmax():
    logits = np.log(np.array([[[0.9, 0.1]], [[0.2, 0.8]]]))
    np.testing.assert_allclose(average_frame_probabilities(logits), [[0.55, 0.45]])
    # a constant added to one frame's logits, or a large scale, changes nothing and overflows nothing
    logits[1] += 1000.0
    np.testing.assert_allclose(average_frame_probabilities(logits), [[0.55, 0.45]])


def test_frames_without_a_frame_axis_are_refused():
    with pytest.raises(ValueError, match=r"\(frames, clips, classes\)"):
        average_frame_probabilities(np.zeros((2, 3)))


def test_trainer_predictions_may_carry_more_than_logits():
    logits, labels = golden_data()
    expected = event_classification_metrics(logits, labels)
    assert compute_event_metrics(EvalPrediction(predictions=logits, label_ids=labels)) == expected
    assert compute_event_metrics(EvalPrediction(predictions=(logits, np.zeros(40)), label_ids=labels)) == expected


@pytest.mark.parametrize("multi_hot", [False, True])
def test_evaluate_metric_collects_batches(tmp_path, multi_hot):
    logits, labels = golden_data()
    references = np.eye(6, dtype=int)[labels] if multi_hot else labels
    metric = EventClassification(cache_dir=str(tmp_path))
    for start in range(0, 40, 16):
        metric.add_batch(predictions=logits[start : start + 16], references=references[start : start + 16])
    assert metric.compute(scores="softmax") == event_classification_metrics(logits, labels, scores="softmax")


def test_a_script_named_evaluate_does_not_shadow_the_metrics(tmp_path):
    (tmp_path / "evaluate.py").write_text("raise RuntimeError('imported the script, not the package')\n")
    script = tmp_path / "distill.py"
    script.write_text("from hf_emktd.metrics import accuracy\nprint(accuracy([[0.0, 1.0]], [1]))\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1.0"
