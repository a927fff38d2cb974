from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch

from hf_emktd.report.class_changes import class_changes
from hf_emktd.report.clip_scores import ClipScores, divergences

EVENTS, MASKS = "audio-visual-classification", "audio-visual-segmentation"
# of (0.5, 0.5) to (0.25, 0.75)
KNOWN = 0.5 * log(2) + 0.5 * log(2 / 3)


def test_divergence_of_events():
    teacher = torch.tensor([[0.0, 0.0], [3.0, 3.0]])
    student = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    assert divergences(student, teacher, EVENTS).tolist() == pytest.approx([KNOWN, 0.0], abs=1e-6)


def test_divergence_of_masks_is_the_mean_over_pixels():
    teacher = torch.zeros(1, 2, 1, 2)
    student = torch.zeros(1, 2, 1, 2)
    student[0, 1, 0, 1] = log(0.25 / 0.75)
    assert divergences(student, teacher, MASKS).tolist() == pytest.approx([KNOWN / 4], abs=1e-6)


def test_a_teacher_that_looks_at_larger_pictures():
    teacher, student = torch.zeros(1, 2, 8, 8), torch.full((1, 2, 4, 4), log(0.25 / 0.75))
    assert divergences(student, teacher, MASKS).tolist() == pytest.approx([KNOWN], abs=1e-6)


def test_gains_and_losses_of_classes():
    scores = ClipScores(
        divergences=np.array([0.3, 0.1, 0.2, 0.0, 0.5]),
        gram_differences={},
        student_scores=np.array([1.0, 1.0, 0.0, 0.0, 1.0]),
        teacher_scores=np.array([1.0, 0.0, 1.0, 1.0, 1.0]),
        labels=np.array([0, 0, 2, 2, 3]),
    )
    changes = class_changes(scores, ["a", "b", "c", "d"])
    found = [(one.label, one.clips, one.student, one.teacher, one.change) for one in changes]
    assert found == [("a", 2, 1.0, 0.5, 0.5), ("d", 1, 1.0, 1.0, 0.0), ("c", 2, 0.0, 1.0, -1.0)]
    assert scores.order.tolist() == [3, 1, 2, 0, 4]
