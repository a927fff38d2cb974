"""Options of a run, refused where they are wrong before anything is loaded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_runs import make_arguments

from hf_emktd.distillation import EntropyMonitoredDistillation, KernelizedTokenDistillation, LogitDistillation
from hf_emktd.training import (
    AudioVisualTrainingArguments,
    DistillationArguments,
    EntropyMonitorArguments,
    build_objectives,
)

GRIDS = {"audio": ((4, 8),), "visual": ((4, 4),), "fusion": ((4, 8), (4, 4))}
CONFIG = SimpleNamespace(
    task="audio-visual-classification", branch_grids=GRIDS, branch_widths=dict.fromkeys(GRIDS, 8), num_labels=3
)


def test_defaults_of_the_paper_and_of_the_trainer(tmp_path):
    args = DistillationArguments(output_dir=str(tmp_path), use_cpu=True)
    assert (args.huber_delta, args.ktd_kernel, args.ktd_gamma, args.learning_rate) == (1.0, "rbf", 0.5, 1e-3)
    assert (args.objective, args.branches) == (["em_ktd", "kd"], ["audio", "visual", "fusion"])
    assert args.lr_scheduler_type == "cosine" and args.get_warmup_steps(1000) == 50
    assert not args.remove_unused_columns and args.ddp_find_unused_parameters


@pytest.mark.parametrize("kind", [DistillationArguments, EntropyMonitorArguments])
def test_memory_is_pinned_for_an_accelerator_alone(tmp_path, kind):
    """torch warns in every data loader otherwise."""
    assert kind(output_dir=str(tmp_path)).dataloader_pin_memory == torch.cuda.is_available()


@pytest.mark.parametrize(
    "option, message",
    [
        ({"modality_dropout": 1.5}, "modality_dropout is a probability between 0 and 1, got 1.5"),
        ({"modality_dropout": -0.1}, "modality_dropout is a probability"),
        ({"head_learning_rate_factor": 0.0}, "head_learning_rate_factor must be positive, got 0.0"),
        ({"non_finite_loss": "ignore"}, "non_finite_loss must be one of stop, skip, got 'ignore'"),
        ({"remove_unused_columns": True}, "would take the teacher's inputs"),
        ({"train_sampling_strategy": "sequential"}, "train_sampling_strategy must be 'random', got 'sequential'"),
        ({"train_sampling_strategy": "group_by_length"}, "must be 'random', got 'group_by_length'"),
        ({"eval_do_concat_batches": False}, "eval_do_concat_batches must be True, got False"),
        ({"task_weight": -1.0}, "task_weight must not be negative, got -1.0"),
        ({"calibration_clips": 0}, "calibration_clips must be at least 1, got 0"),
        (
            {"objective": ["ktd", "magic"]},
            "objective: unknown magic; known are kd, ktd, em_ktd,.* and 'none' by itself",
        ),
        ({"objective": ["none", "kd"]}, "objective: unknown none"),
        ({"objective": ["kd", "kd"]}, "objective: kd, kd names one twice"),
        ({"branches": ["audio", "smell"]}, "branches must name some of audio, visual, fusion"),
        ({"branches": []}, "branches must name some of"),
        ({"ktd_kernel": "cubic"}, "unknown name 'cubic'; known are linear, polynomial, rbf"),
        ({"ktd_gamma": 0.0}, "gamma must be positive"),
        ({"ktd_scale": "big"}, "unknown scale 'big'; known are teacher_spread, none"),
        ({"ktd_weight": -1.0}, "weight must be positive and finite, got -1.0"),
        ({"huber_delta": 0.0}, "delta must be positive"),
        ({"entropy_lambda": -0.5}, "entropy_lambda must not be negative"),
        ({"kd_temperature": 0.0}, "temperature must be positive"),
        ({"lr_scheduler_type": "stairs"}, "stairs"),
        ({"objective_options": ["kd.heat=1"]}, "kd has no heat; its options: temperature, weight"),
        (
            {"objective_options": ["at.weight=1"]},
            r"the name of an objective of this run \(em_ktd, kd\), got 'at.weight=1'",
        ),
        ({"objective_options": ["kd.temperature"]}, "expected NAME.FIELD=VALUE"),
        ({"objective_options": ["kd.temperature=warm"]}, "objective_options: kd: "),
        ({"objective_options": ["kd.temperature=-1"]}, "temperature must be positive and finite, got -1"),
    ],
)
def test_wrong_values_are_refused(tmp_path, option, message):
    with pytest.raises(ValueError, match=message):
        DistillationArguments(output_dir=str(tmp_path), use_cpu=True, **option)


def test_none_is_labels_only(tmp_path):
    args = DistillationArguments(output_dir=str(tmp_path), use_cpu=True, objective=["none"])
    assert args.objective == [] and build_objectives(args, CONFIG, CONFIG) == []


def test_constants_of_an_unused_objective_do_not_matter(tmp_path):
    args = DistillationArguments(output_dir=str(tmp_path), use_cpu=True, objective=["kd"], ktd_gamma=-1.0)
    assert args.ktd_gamma == -1.0


class TestObjectives:
    def test_every_option_arrives(self, tmp_path):
        args = make_arguments(
            tmp_path,
            objective=["kd", "em_ktd", "ktd"],
            kd_weight=0.3,
            kd_temperature=2.0,
            ktd_weight=5.0,
            ktd_scale="none",
            ktd_kernel="polynomial",
            ktd_degree=3,
            ktd_constant=0.5,
            ktd_sliding_window=True,
            huber_delta=0.25,
            branches=["fusion"],
            entropy_lambda=0.9,
        )
        kd, em_ktd, ktd = build_objectives(args, CONFIG, CONFIG)
        assert type(kd) is LogitDistillation and (kd.weight, kd.temperature) == (0.3, 2.0)
        assert type(em_ktd) is EntropyMonitoredDistillation and em_ktd.entropy_lambda == 0.9
        assert type(ktd) is KernelizedTokenDistillation
        for objective in (em_ktd, ktd):
            assert objective.to_dict() | {"entropy_lambda": 0, "name": ""} == {
                "name": "",
                "weight": 5.0,
                "kernel": {"name": "polynomial", "constant": 0.5, "degree": 3},
                "delta": 0.25,
                "scale": "none",
                "teacher_spread": {"fusion": None},
                "sliding_windows": True,
                "branches": ["fusion"],
                "entropy_lambda": 0,
            }

    def test_grids_too_small_for_windows(self, tmp_path):
        args = make_arguments(tmp_path, ktd_sliding_window=True)
        with pytest.raises(ValueError, match="sliding windows need sides of at least 4 tokens, got 2"):
            small = SimpleNamespace(**vars(CONFIG) | {"branch_grids": GRIDS | {"visual": ((2, 2),)}})
            build_objectives(args, small, CONFIG)

    def test_options_without_a_flag(self, tmp_path):
        args = make_arguments(tmp_path, objective=["ktd", "kd"], kd_weight=2.0)
        args.objective_options = ["ktd.delta=0.5", "kd.temperature=3", 'ktd.branches=["audio"]']
        ktd, kd = build_objectives(args, CONFIG, CONFIG)
        assert (ktd.delta, ktd.branches, kd.temperature, kd.weight) == (0.5, ("audio",), 3, 2.0)


def test_monitor_arguments_of_a_run_share_its_machine_and_precision(tmp_path):
    run = make_arguments(tmp_path, AudioVisualTrainingArguments, bf16=True, seed=5, learning_rate=3.0)
    args = EntropyMonitorArguments.within(run, str(tmp_path / "monitor"))
    assert (args.bf16, args.use_cpu, args.seed, args.disable_tqdm, args.report_to) == (True, True, 5, True, [])
    assert (args.output_dir, args.learning_rate) == (str(tmp_path / "monitor"), 1e-3)
