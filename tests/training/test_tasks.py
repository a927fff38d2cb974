"""What trainers do for masks: losses, metrics, frozen parts, controls, students of another size."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tiny_runs
import tiny_scenes
import torch
from tiny_runs import logged

from hf_emktd.metrics import segmentation_metrics
from hf_emktd.models.avsegformer import segmentation_loss
from hf_emktd.training import TASKS, AudioVisualTrainingArguments, task_of_config


def test_the_task_is_the_configs():
    assert task_of_config(tiny_scenes.make_config()).name == "audio-visual-segmentation"
    assert task_of_config(tiny_runs.make_model().config).name == "audio-visual-classification"
    assert type(task_of_config(object())) is TASKS["audio-visual-classification"]
    with pytest.raises(ValueError, match="unknown task 'depth'"):
        task_of_config(SimpleNamespace(task="depth"))


@pytest.mark.parametrize("option", ["modality_dropout", "label_smoothing_factor"])
def test_options_of_events_are_refused(tmp_path, option):
    with pytest.raises(ValueError, match=f"{option}=0.5 is of no use in audio-visual-segmentation"):
        tiny_scenes.make_trainer(tmp_path, **{option: 0.5})


def test_wrong_values(tmp_path):
    with pytest.raises(ValueError, match="freeze_epochs"):
        AudioVisualTrainingArguments(output_dir=str(tmp_path), use_cpu=True, freeze_epochs=-1)


@pytest.mark.parametrize("kind", ["dice", "bce", "dice_bce"])
def test_parts_are_those_of_the_model(tmp_path, kind):
    student = tiny_scenes.make_model(mask_loss=kind, auxiliary_weight=0.3)
    trainer = tiny_scenes.make_trainer(tmp_path, student=student, objective=["none"])
    batch = next(iter(trainer.get_train_dataloader()))
    parts, _, outputs = trainer.loss_parts(trainer.model, batch)
    expected = segmentation_loss(outputs.logits, outputs.mask_features, batch["labels"], kind, 0.3)
    torch.testing.assert_close(parts["task"], expected["mask"])
    torch.testing.assert_close(parts["auxiliary"], expected["auxiliary"])


def test_training_lowers_the_loss_with_every_objective(tmp_path):
    options = {"max_steps": 12, "learning_rate": 3e-3, "optim": "adamw_torch", "objective": ["em_ktd", "kd"]}
    trainer = tiny_scenes.make_trainer(tmp_path, ktd_scale="teacher_spread", ktd_weight=1.0, **options)
    trainer.train()
    lines = logged(trainer)
    names = {"loss_task", "loss_auxiliary", "loss_em_ktd_visual", "loss_em_ktd_fusion", "loss_kd"}
    assert names <= lines[0].keys(), lines[0].keys()
    assert np.mean([line["loss"] for line in lines[-3:]]) < 0.95 * lines[0]["loss"]


def test_a_teacher_of_another_picture_size(tmp_path):
    teacher = tiny_scenes.make_model(seed=1, image_size=96, vision_hidden_sizes=[8, 16, 16, 32])
    trainer = tiny_scenes.make_trainer(tmp_path, teacher_model=teacher)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["pixel_values"].shape[-1] == 64 and batch["teacher_pixel_values"].shape[-1] == 96
    trainer.train()
    assert all(np.isfinite(line["loss"]) for line in logged(trainer))


def test_frames_without_labels_are_still_distilled(tmp_path):
    views = tiny_scenes.make_views(tiny_scenes.make_features(labelled=1))
    trainer = tiny_scenes.make_trainer(tmp_path, views=views)
    batch = next(iter(trainer.get_train_dataloader()))
    assert (batch["labels"][:, 1] == -100).all() and (batch["labels"][:, 0] >= 0).all()
    parts, _, outputs = trainer.loss_parts(trainer.model, batch)
    of_labels, of_teacher = (
        torch.autograd.grad(sum(parts[name] for name in names), outputs.logits, retain_graph=True)[0]
        for names in (("task",), ("kd",))
    )
    assert of_labels[:, 0].any() and not of_labels[:, 1].any()
    assert of_teacher[:, 0].any() and of_teacher[:, 1].any()


def test_evaluation_sums_masks_up(tmp_path):
    trainer = tiny_scenes.make_trainer(tmp_path, per_device_eval_batch_size=2)
    metrics = trainer.evaluate()
    batch = trainer.data_collator([trainer.eval_dataset[index] for index in range(3)])
    with torch.no_grad():
        logits = trainer.model.eval()(**trainer.model_inputs(batch)).logits
    kept, _ = trainer.task.for_metrics(logits, batch["labels"])
    assert kept.shape[:2] == (3, tiny_scenes.FRAMES) and kept.shape[2] < 400
    expected = segmentation_metrics(kept)
    assert metrics["eval_MJ"] == pytest.approx(expected["MJ"], rel=1e-5)
    assert metrics["eval_MF"] == pytest.approx(expected["MF"], rel=1e-5)


def test_metrics_of_the_callers_own_get_logits_and_masks(tmp_path):
    seen = []
    trainer = tiny_scenes.make_trainer(tmp_path, per_device_eval_batch_size=2)
    trainer.compute_metrics = lambda prediction: seen.append(prediction) or {"clips": len(prediction.label_ids)}
    assert trainer.evaluate()["eval_clips"] == 3
    batch = trainer.data_collator([trainer.eval_dataset[index] for index in range(3)])
    with torch.no_grad():
        logits = trainer.model.eval()(**trainer.model_inputs(batch)).logits
    np.testing.assert_allclose(seen[0].predictions, logits.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(seen[0].label_ids, batch["labels"].numpy())


def test_scenes_without_masks_are_answered(tmp_path):
    trainer = tiny_scenes.make_trainer(tmp_path, per_device_eval_batch_size=2)
    views = [trainer.eval_dataset[index] for index in range(3)]
    unlabelled = [{name: value for name, value in view.items() if name not in ("label", "labels")} for view in views]
    answer = trainer.predict(unlabelled)
    with torch.no_grad():
        logits = trainer.model.eval()(**trainer.model_inputs(trainer.data_collator(views))).logits
    np.testing.assert_allclose(answer.predictions, logits.numpy(), rtol=1e-4, atol=1e-5)
    assert answer.label_ids is None


class TestFreezing:
    def test_a_frozen_part_stays(self, tmp_path):
        trainer = tiny_scenes.make_trainer(tmp_path, freeze=["audio_encoder"])
        before = tiny_runs.weights(trainer.model)
        trainer.train()
        after = tiny_runs.weights(trainer.model)
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed and not any("audio_encoder" in name for name in changed)

    def test_the_visual_encoder_waits_for_its_epochs(self, tmp_path):
        trainer = tiny_scenes.make_trainer(tmp_path, freeze_epochs=1, max_steps=2)  # two steps an epoch
        before = tiny_runs.weights(trainer.model.avsegformer.visual_encoder)
        trainer.train()
        after = tiny_runs.weights(trainer.model.avsegformer.visual_encoder)
        assert all(torch.equal(before[name], after[name]) for name in before)
        trainer = tiny_scenes.make_trainer(tmp_path, freeze_epochs=1, max_steps=3)
        trainer.train()
        after = tiny_runs.weights(trainer.model.avsegformer.visual_encoder)
        assert any(not torch.equal(before[name], after[name]) for name in before)

    def test_an_unknown_part(self, tmp_path):
        with pytest.raises(ValueError, match=r"no part head.*audio_encoder, visual_encoder"):
            tiny_scenes.make_trainer(tmp_path, freeze=["head"])
        with pytest.raises(ValueError, match=r"CavMae.*has no part audio_encoder.*none"):
            tiny_runs.make_trainer(tmp_path, freeze=["audio_encoder"])
