"""Objectives that learn: optimised beside the student, saved with the run, no part of the student."""

from __future__ import annotations

import pytest
import torch
from accelerate.utils import DistributedType
from tiny_runs import logged, make_model, make_trainer
from torch import nn
from torch.nn import functional as F

from hf_emktd.distillation import DistillationObjective
from hf_emktd.training.objective_state import OBJECTIVES_FILE, add_to_optimizer, check_backend, load_objectives


class Projection(DistillationObjective):
    """The student's mean visual token, projected, against the teacher's."""

    name = "projection"
    citation = ""
    requires_tokens = True

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.linear = nn.Linear(
            make_model().config.branch_widths["visual"], make_model().config.branch_widths["visual"]
        )

    def forward(self, student_output, teacher_signal, labels=None):
        target = teacher_signal.tokens["visual"].mean(dim=1)
        return {self.name: F.mse_loss(self.linear(student_output.visual_tokens.mean(dim=1)), target)}

    def to_dict(self):
        return {"name": self.name}


def run(folder, **options):
    options = {"max_steps": 4, "learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 2} | options
    return make_trainer(folder, objectives=[Projection()], **options)


def test_parameters_are_trained_beside_the_student(tmp_path):
    trainer = run(tmp_path, max_steps=16, learning_rate=3e-2)
    before = {name: tensor.clone() for name, tensor in trainer.objectives.state_dict().items()}
    trainer.train()
    after = trainer.objectives.state_dict()
    assert before and all(not torch.equal(before[name], after[name]) for name in before)
    assert set(trainer.model.state_dict()) == set(make_model().state_dict())
    losses = [line["loss_projection"] for line in logged(trainer)]
    assert losses[-1] < losses[0]


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path):
    straight = run(tmp_path / "straight")
    straight.train()
    (tmp_path / "again").mkdir()
    (tmp_path / "straight" / "checkpoint-2").rename(tmp_path / "again" / "checkpoint-2")
    resumed = run(tmp_path / "again")
    resumed.train(resume_from_checkpoint="last")
    assert [line["step"] for line in logged(resumed)] == [1, 2, 3, 4]
    for name, tensor in straight.objectives.state_dict().items():
        assert torch.equal(resumed.objectives.state_dict()[name], tensor), name
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name


def test_a_checkpoint_of_other_objectives_is_refused(tmp_path):
    make_trainer(tmp_path, max_steps=1, save_strategy="steps", save_steps=1).train()
    assert not (tmp_path / "checkpoint-1" / OBJECTIVES_FILE).exists()  # nothing to keep
    with pytest.raises(ValueError, match="does not hold the parameters of this run's objectives \\(projection\\)"):
        load_objectives(nn.ModuleList([Projection()]), tmp_path / "checkpoint-1")


def test_no_weight_decay_and_the_learning_rate_of_the_student(tmp_path):
    student, objectives = nn.Linear(2, 2), nn.ModuleList([Projection()])
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.5, weight_decay=0.1)
    add_to_optimizer(optimizer, objectives)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.5, 0.1), (0.5, 0.0)]
    assert len(optimizer.param_groups[1]["params"]) == 2


def test_a_sharding_backend_is_refused(tmp_path):
    accelerator = run(tmp_path).accelerator
    check_backend(accelerator, nn.ModuleList([Projection()]))

    class Sharding:
        distributed_type = DistributedType.DEEPSPEED

    with pytest.raises(ValueError, match="projection have parameters of their own, which DEEPSPEED cannot"):
        check_backend(Sharding(), nn.ModuleList([Projection()]))
    check_backend(Sharding(), nn.ModuleList())
