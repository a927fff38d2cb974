"""DisWOT's distances by hand, by the official code and by autograd; the score of real students."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tiny_runs import LABELS, make_model
from torch.nn import functional as F

from formulas import hashed_uniform
from hf_emktd.metrics import dummy_clip
from hf_emktd.search import TrainingFreeScore, score_students
from hf_emktd.search.training_free_score import (
    class_distance,
    class_gradients,
    clip_distance,
    relation_matrix,
    relations_of,
)
from hf_emktd.training import build_student_config
from tiny_segmenter import make_segmenter

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "diswot.json").read_text())


def golden_pair(name: str) -> list[torch.Tensor]:
    shapes = zip(("student", "teacher"), GOLDEN["shapes"][name], strict=True)
    return [
        relation_matrix(torch.from_numpy(hashed_uniform(f"{name} {role}", tuple(shape)))) for role, shape in shapes
    ]


def batch_of(config, clips: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = dummy_clip(config)
    batch = {name: torch.randn(clips, *tensor.shape[1:], generator=generator) for name, tensor in inputs.items()}
    return batch | {"labels": torch.arange(clips) % 3}


class TestDistances:
    def test_relations_by_hand(self):
        # dot products [[9, 12], [12, 25]], rows divided by 15 and by sqrt(769)
        relations = relation_matrix(torch.tensor([[3.0, 0.0], [4.0, 3.0]]))
        expected = torch.tensor([[9 / 15, 12 / 15], [12 / 769**0.5, 25 / 769**0.5]])
        torch.testing.assert_close(relations, expected)

    def test_distances_by_hand(self):
        # [[1, 0], [0, 1]] against [[1, 1], [1, 1]] / sqrt(2): twice (1 - r)^2 + r^2 with r^2 = 1/2
        orthogonal = relation_matrix(torch.tensor([[2.0, 0.0], [0.0, 5.0]]))
        parallel = relation_matrix(torch.tensor([[3.0], [3.0]]))
        total = 2 * ((1 - 0.5**0.5) ** 2 + 0.5)
        assert clip_distance(orthogonal, parallel).item() == pytest.approx(total / 4)
        assert class_distance(orthogonal, parallel).item() == pytest.approx(total / 2)

    def test_equal_the_official_code(self):
        assert clip_distance(*golden_pair("features")).item() == pytest.approx(GOLDEN["clips"], rel=1e-6)
        assert class_distance(*golden_pair("gradients")).item() == pytest.approx(GOLDEN["classes"], rel=1e-6)

    def test_scale_and_rotation_of_features_do_not_matter(self):
        features = torch.randn(5, 4, 3, dtype=torch.float64)
        rotation = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))[0]
        torch.testing.assert_close(relation_matrix(features), relation_matrix(7 * features.flatten(1) @ rotation))

    def test_order_of_the_clips_does_not_matter(self):
        own, given, order = torch.randn(5, 4), torch.randn(5, 9), torch.randperm(5)
        first = clip_distance(relation_matrix(own), relation_matrix(given))
        torch.testing.assert_close(clip_distance(relation_matrix(own[order]), relation_matrix(given[order])), first)

    def test_half_precision_is_compared_in_float32(self):
        assert relation_matrix(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.float32

    def test_gradients_are_those_of_autograd(self):
        features, weight = torch.randn(6, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
        weight.requires_grad_(True)
        labels = torch.tensor([0, 1, 2, 2, 1, 0])
        logits = F.linear(features, weight)
        F.cross_entropy(logits, labels).backward()
        torch.testing.assert_close(class_gradients(features, logits.detach(), labels), weight.grad)


class TestRelations:
    def test_of_a_classifier(self):
        model = make_model().train()
        batch = batch_of(model.config)
        relations = relations_of(model, batch)
        assert model.training and not model.classifier.dense._forward_hooks
        output = model.eval()(**{name: batch[name] for name in model.config.input_shapes}, output_tokens=True)
        F.cross_entropy(output.logits, batch["labels"]).backward()
        torch.testing.assert_close(relations.clips, relation_matrix(output.fusion_tokens).detach())
        torch.testing.assert_close(relations.classes, relation_matrix(model.classifier.dense.weight.grad))

    def test_of_sound_alone(self):
        model = make_model().eval()
        batch = batch_of(model.config)
        del batch["pixel_values"]
        tokens = model(batch["input_values"], output_tokens=True).audio_tokens
        torch.testing.assert_close(relations_of(model, batch).clips, relation_matrix(tokens).detach())

    def test_of_masks_there_are_no_classes(self):
        model = make_segmenter()
        relations = relations_of(model, batch_of(model.config, clips=3))
        assert relations.clips.shape == (3, 3) and relations.classes is None


class TestScore:
    @pytest.mark.parametrize("teacher_weights", ["random", "trained"])
    @pytest.mark.parametrize("make", [make_model, make_segmenter])
    def test_every_student_is_scored_the_same_every_time(self, make, teacher_weights):
        teacher = make()
        before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
        state = torch.random.get_rng_state()
        configs = [build_student_config(teacher.config), teacher.config]
        options = {"initialisations": 2, "teacher_weights": teacher_weights, "progress": False}
        scores = score_students(teacher, configs, [batch_of(teacher.config)], **options)
        assert scores == score_students(teacher, configs, [batch_of(teacher.config)], **options)
        assert all(score.total < 0 and score.deviation > 0 for score in scores)
        assert (scores[0].classes is None) == (make is make_segmenter)
        assert torch.equal(torch.random.get_rng_state(), state)
        for name, tensor in teacher.state_dict().items():
            assert torch.equal(tensor, before[name])

    def test_a_student_is_not_drawn_as_the_teacher_was(self):
        teacher = make_model()
        scores = score_students(
            teacher, [teacher.config], [batch_of(teacher.config)], initialisations=1, progress=False
        )
        assert scores[0].classes[0] < -1e-3 and scores[0].clips[0] < -1e-8

    def test_a_score_does_not_depend_on_which_others_are_scored(self):
        teacher = make_model()
        configs = [teacher.config, build_student_config(teacher.config)]
        batches = [batch_of(teacher.config, seed=seed) for seed in range(2)]
        both = score_students(teacher, configs, batches, initialisations=2, progress=False)
        assert both[1:] == score_students(teacher, configs[1:], batches, initialisations=2, progress=False)

    def test_batches_are_averaged(self):
        teacher = make_model(id2label=dict(enumerate(LABELS)))
        first, second = (batch_of(teacher.config, seed=seed) for seed in range(2))
        one, other, both = (
            score_students(teacher, [teacher.config], batches, initialisations=1, progress=False)[0].total
            for batches in ([first], [second], [first, second])
        )
        assert both == pytest.approx((one + other) / 2)

    @pytest.mark.parametrize(
        ("clips", "options", "message"),
        [
            ([], {}, "at least one batch"),
            ([6, 1], {}, r"batches of \[6, 1\]"),
            ([6], {"initialisations": 0}, "initialisations must be at least 1, got 0"),
            ([6], {"teacher_weights": "old"}, "one of random, trained, got 'old'"),
        ],
    )
    def test_what_does_not_fit(self, clips, options, message):
        teacher = make_model()
        with pytest.raises(ValueError, match=message):
            score_students(teacher, [], [batch_of(teacher.config, count) for count in clips], **options)


class TestComparison:
    def test_totals_are_sums(self):
        score = TrainingFreeScore((-1.0, -3.0), (-0.5, -0.5))
        assert score.totals == (-1.5, -3.5) and score.total == -2.5
        assert score.deviation == pytest.approx(2**0.5)
        assert TrainingFreeScore((-1.0, -3.0), None).totals == (-1.0, -3.0)

    def test_above_is_said_of_differences_that_are_clear(self):
        # differences 1, 1, 1.3: mean 1.1, standard error 0.1
        low, high = TrainingFreeScore((-5.0, -9.0, -2.3), None), TrainingFreeScore((-4.0, -8.0, -1.0), None)
        assert high.is_above(low) and not low.is_above(high)
        # differences 1, -1, 1.3: mean 0.43, standard error 0.72
        unclear = TrainingFreeScore((-5.0, -7.0, -2.3), None)
        assert not high.is_above(unclear)

    def test_a_single_initialisation_tells_nothing(self):
        one = TrainingFreeScore((-1.0,), None)
        assert math.isnan(one.deviation) and not one.is_above(TrainingFreeScore((-100.0,), None))
