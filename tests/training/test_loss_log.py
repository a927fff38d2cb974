"""Means between two log lines."""

import pytest
import torch

from hf_emktd.training.loss_log import LossLog


def scalars(**values):
    return {name: torch.tensor(float(value)) for name, value in values.items()}


def test_means_over_steps():
    log = LossLog()
    log.add(scalars(task=1, kd=3), {"audio": torch.tensor([0.2, 0.4])})
    log.add(scalars(task=2, kd=5), {"audio": torch.tensor([0.5, 0.7])})
    assert log.pop_means() == pytest.approx({"loss_task": 1.5, "loss_kd": 4.0, "weight_audio": 0.45})


def test_batches_of_a_step_count_by_their_share():
    log = LossLog()
    log.add(scalars(task=1), {}, share=0.5)
    log.add(scalars(task=2), {}, share=0.5)
    log.add(scalars(task=6), {}, share=1.0)  # the step at the end of an epoch has one batch
    assert log.pop_means() == {"loss_task": pytest.approx((1.5 + 6) / 2)}


def test_an_absent_part_is_zero_an_absent_branch_weight_nothing():
    log = LossLog()
    log.add(scalars(task=1, ktd_audio=4), {"audio": torch.tensor([0.5])})
    log.add(scalars(task=3), {})
    assert log.pop_means() == pytest.approx({"loss_task": 2.0, "loss_ktd_audio": 2.0, "weight_audio": 0.5})


def test_starts_anew_and_keeps_no_graph():
    log = LossLog()
    part = torch.tensor(2.0, requires_grad=True) * 3
    log.add({"task": part}, {})
    assert not log.sums["loss_task"].requires_grad
    assert log.pop_means() == {"loss_task": 6.0}
    assert log.pop_means() == {}
    log.add(scalars(task=1), {})
    assert log.pop_means() == {"loss_task": 1.0}
