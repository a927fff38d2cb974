"""The gradient of every objective on the student's tokens, in units of the task's."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import logged, make_trainer

from hf_emktd.data import AudioVisualCollator
from hf_emktd.training.balance import GradientBalance


class TestGradientBalance:
    def test_by_hand(self):
        tokens = torch.tensor([[3.0, 4.0]], requires_grad=True)
        task, one, two = 2 * tokens.sum(), tokens.square().sum(), 10 * tokens.square().sum()
        balance = GradientBalance(["one", "two"], share=0.5)
        balance.measure(task, {"two": two, "one": one}, [tokens])
        # gradients: task (2, 2), one (6, 8), two (60, 80)
        length = 8**0.5
        assert {name: factor.item() for name, factor in balance.factors().items()} == pytest.approx(
            {"one": 0.5 * length / 10, "two": 0.5 * length / 100}
        )
        assert tokens.grad is None

    def test_lengths_of_several_batches_add_up(self):
        tokens = torch.ones(3, requires_grad=True)
        balance = GradientBalance(["kd"])
        for size in (1.0, 3.0):
            balance.measure(size * tokens.sum(), {"kd": 2 * tokens.sum()}, [tokens])
        assert balance.factors()["kd"].item() == pytest.approx((1 + 3) / (2 + 2))

    def test_an_objective_that_does_not_reach_the_tokens_is_refused(self):
        tokens, other = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
        with pytest.raises(ValueError, match="the gradient of kd on the student's tokens is zero"):
            GradientBalance(["kd"]).measure(tokens.sum(), {"kd": other.sum()}, [tokens])


def run(folder, **options):
    options = {"balance": "gradient", "balance_steps": 2, "max_steps": 4, "learning_rate": 1e-2} | options
    return make_trainer(folder, **options)


def test_weights_and_scales_cancel_out(tmp_path):
    runs = [run(tmp_path / str(i), ktd_weight=weight, kd_weight=weight) for i, weight in enumerate((1.0, 300.0))]
    for trainer in runs:
        trainer.train()
    for one, two in zip(logged(runs[0]), logged(runs[1]), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)


def test_every_objective_pulls_as_hard_as_it_is_told(tmp_path):
    trainer = run(tmp_path, balance_share=0.5)
    batch = AudioVisualCollator()([trainer.train_dataset[clip, 0] for clip in range(4)])
    trainer.model.train()
    parts, _, outputs = trainer.loss_parts(trainer.model, batch)
    lengths = {}
    for name in ("task", "kd", "em_ktd"):
        loss = sum(part for key, part in parts.items() if key.startswith(name))
        grads = torch.autograd.grad(
            loss, [outputs.audio_tokens, outputs.visual_tokens, outputs.fusion_tokens], retain_graph=True
        )
        lengths[name] = torch.cat([grad.flatten() for grad in grads]).norm().item()
    assert lengths["kd"] == pytest.approx(0.5 * lengths["task"], rel=1e-4)
    assert lengths["em_ktd"] == pytest.approx(0.5 * lengths["task"], rel=1e-4)


def test_nothing_is_measured_after_the_steps_that_are(tmp_path):
    lengths = {}
    for steps in (1, 2, 3):
        trainer = run(tmp_path / str(steps), balance_steps=2, max_steps=steps)
        trainer.train()
        lengths[steps] = trainer.balance.lengths.clone()
    assert not torch.equal(lengths[1], lengths[2])
    assert torch.equal(lengths[2], lengths[3])


def test_a_resumed_run_keeps_what_was_measured(tmp_path):
    straight = run(tmp_path / "straight", save_strategy="steps", save_steps=3)
    straight.train()
    (tmp_path / "again").mkdir()
    (tmp_path / "straight" / "checkpoint-3").rename(tmp_path / "again" / "checkpoint-3")
    resumed = run(tmp_path / "again", save_strategy="steps", save_steps=3)
    resumed.train(resume_from_checkpoint="last")
    assert torch.equal(straight.balance.lengths, resumed.balance.lengths)
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name
