"""The relatives of the method in the trainer: calibration, projections and checkpoints, for both tasks."""

from __future__ import annotations

import pytest
import tiny_runs
import tiny_scenes
import torch

from hf_emktd.data import AugmentationArguments

EVENTS = ["nkd", "dkd", "bd_kd", "trg", "nd", "affinity"]
MASKS = ["bd_kd", "trg", "transkd", "bpkd"]


def events_trainer(folder, **options):
    """A student of half the teacher's width on mixed clips."""
    student = tiny_runs.make_model(hidden_size=8)
    mixed = AugmentationArguments.none()
    mixed.mixup = 0.5
    views = tiny_runs.make_views(tiny_runs.make_features(), mixed, student)
    return tiny_runs.make_trainer(folder, student=student, views=views, objective=EVENTS, **options)


def masks_trainer(folder, **options):
    """A student of half the teacher's widths on clips of which the first frame alone has a mask."""
    student = tiny_scenes.make_model(vision_hidden_sizes=[4, 4, 8, 8], vision_num_attention_heads=[1, 1, 1, 1])
    views = tiny_scenes.make_views(tiny_scenes.make_features(labelled=1), student)
    return tiny_scenes.make_trainer(folder, student=student, views=views, objective=MASKS, **options)


def run(make, folder, **options):
    return make(folder, max_steps=3, learning_rate=0.003, save_strategy="steps", save_steps=2, **options)


def state_of(trainer):
    modules = {"student": trainer.model, "objectives": trainer.objectives}
    return {f"{role}.{name}": x for role, each in modules.items() for name, x in tiny_runs.weights(each).items()}


@pytest.mark.parametrize(("make", "names"), [(events_trainer, EVENTS), (masks_trainer, MASKS)])
def test_all_at_once_train_student_and_projections_and_resume(make, names, tmp_path):
    trainer = run(make, tmp_path)
    before = {name: value.detach().clone() for name, value in trainer.objectives.named_parameters()}
    trainer.train()
    for line in tiny_runs.logged(trainer):
        for name in names:
            parts = [
                value for part, value in line.items() if part == f"loss_{name}" or part.startswith(f"loss_{name}_")
            ]
            assert parts and torch.tensor(parts).isfinite().all(), name
    learned = dict(trainer.objectives.named_parameters())
    assert before and all(not torch.equal(value, learned[name]) for name, value in before.items())
    resumed = run(make, tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, value in state_of(trainer).items():
        torch.testing.assert_close(state_of(resumed)[name], value, msg=name)


def test_class_means_are_those_of_the_whole_calibration(tmp_path):
    trainer = run(events_trainer, tmp_path)
    trainer.calibrate()
    nd = trainer.objectives[EVENTS.index("nd")]
    assert nd.calibration_clips == 30 and nd.to_dict()["classes_without_mean"] == dict.fromkeys(nd.branches, 0)
