from __future__ import annotations

import numpy as np
import pytest
import tiny_runs
import torch

from hf_emktd.analysis import read_monitor
from hf_emktd.analysis.monitor_readings import Readings, class_scores, mask_scores, mean_score
from hf_emktd.data import AudioVisualCollator
from hf_emktd.distillation import LiveTeacher
from hf_emktd.metrics import frame_statistics, segmentation_metrics


def batch_of(views):
    return AudioVisualCollator()([views[index] for index in range(len(views))])


def test_of_events(teacher, views):
    (readings,) = read_monitor(teacher, views, batch_size=5)
    batch = batch_of(views)
    signal = teacher(**batch)
    right = (signal.logits.argmax(dim=1) == batch["labels"]).double().numpy()
    np.testing.assert_array_equal(readings.teacher_scores, right)
    logits = teacher.monitor(signal.tokens).logits
    for branch, entropies in signal.entropies.items():
        np.testing.assert_allclose(readings.entropies[branch], entropies, atol=1e-5)
        expected = (logits[branch].argmax(dim=1) == batch["labels"]).double().numpy()
        np.testing.assert_array_equal(readings.probe_scores[branch], expected)


def test_of_masks(mask_teacher, mask_views):
    (readings,) = read_monitor(mask_teacher, mask_views, batch_size=3)
    batch = batch_of(mask_views)
    with torch.no_grad():
        signal = mask_teacher(**batch)
    expected = segmentation_metrics(frame_statistics(signal.logits, batch["labels"]))["MJ"]
    assert readings.teacher_scores.mean() == pytest.approx(expected, abs=1e-6)
    assert all(value.shape == (4,) for value in readings.entropies.values())
    assert all(((score >= 0) & (score <= 1)).all() for score in readings.probe_scores.values())
    logits = mask_teacher.monitor(signal.tokens).logits["visual"][:, 0]
    shares = mask_teacher.monitor.probes["visual"].targets(batch["labels"])[:, 0]
    assert readings.probe_scores["visual"] == pytest.approx(list(map(iou_by_hand, logits > 0, shares >= 0.5)))


def iou_by_hand(found, true):
    """Where nothing sounds, the share of positions that are left alone."""
    if not true.any():
        return (~found).double().mean().item()
    return ((found & true).sum() / (found | true).sum()).item()


def test_each_change_is_read(teacher, views):
    changes = [
        lambda batch, first: batch,
        lambda batch, first: batch | {"pixel_values": torch.zeros_like(batch["pixel_values"])},
    ]
    plain, blind = read_monitor(teacher, views, changes=changes)
    np.testing.assert_array_equal(plain.entropies["audio"], blind.entropies["audio"])
    assert np.ptp(blind.entropies["visual"]) < 1e-5 < np.ptp(plain.entropies["visual"])


def test_weights_by_hand():
    readings = Readings({"audio": np.array([0.0, 2.0])}, {"audio": np.ones(2)}, np.ones(2))
    np.testing.assert_allclose(readings.weights(0.5)["audio"], [1, np.exp(-1)])


def test_scores_by_hand():
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    np.testing.assert_array_equal(class_scores(logits, torch.tensor([0, 0])), [1, 0])
    maps = torch.tensor([[[[1.0, -1.0]], [[1.0, 1.0]]], [[[1.0, 1.0]], [[1.0, 1.0]]]])
    labels = torch.tensor([[[[1, 1]], [[-100, -100]]], [[[-100, -100]], [[-100, -100]]]])
    np.testing.assert_allclose(mask_scores(maps, labels), [0.5, np.nan])
    assert mean_score(np.array([0.5, np.nan])) == 0.5
    assert np.isnan(mean_score(np.array([np.nan])))


def test_refusals(teacher, views):
    with pytest.raises(ValueError, match="no entropy monitor to read"):
        read_monitor(LiveTeacher(tiny_runs.make_model()), views)
    deaf = [{name: value for name, value in view.items() if name != "input_values"} for view in views]
    with pytest.raises(ValueError, match="the clips give the teacher no audio, fusion tokens"):
        read_monitor(teacher, deaf)
