"""Training steps against values computed by hand; what is trained, logged, saved and refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import (
    OFF,
    logged,
    make_arguments,
    make_features,
    make_model,
    make_monitor,
    make_teacher,
    make_trainer,
    make_views,
    weights,
)
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoProcessor, TrainerCallback

from hf_emktd.data import AudioVisualCollator, AugmentationArguments
from hf_emktd.data.augmentation import balanced_sample_weights
from hf_emktd.distillation import BRANCHES, LiveTeacher, LogitDistillation, TokenKernel
from hf_emktd.metrics import compute_event_metrics
from hf_emktd.models.cav_mae import CavMaeForAudioVisualClassification, CavMaeProcessor
from hf_emktd.training import (
    AudioVisualTrainer,
    AudioVisualTrainingArguments,
    EMKTDTrainer,
    build_objectives,
    task_loss,
)
from hf_emktd.training.resuming import last_checkpoint

ALL_VIEWS = AugmentationArguments()  # the whole official recipe, mixup included


def parts_of(line: dict[str, float]) -> float:
    return sum(value for name, value in line.items() if name.startswith("loss_"))


def first_batch(trainer) -> dict[str, torch.Tensor]:
    return next(iter(trainer.get_train_dataloader()))


class TestTaskLoss:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]])

    def test_class_ids(self):
        log_probabilities = self.logits.log_softmax(-1)
        expected = -(log_probabilities[0, 0] + log_probabilities[1, 2]) / 2
        assert task_loss(self.logits, torch.tensor([0, 2])) == pytest.approx(expected.item())

    def test_label_smoothing_spreads_evenly(self):
        targets = torch.tensor([[0.9, 0.0, 0.0], [0.0, 0.0, 0.9]]) + 0.1 / 3
        expected = -(targets * self.logits.log_softmax(-1)).sum(-1).mean()
        assert task_loss(self.logits, torch.tensor([0, 2]), 0.1) == pytest.approx(expected.item())

    def test_soft_labels_with_smoothing(self):
        soft = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.5, 0.5]])
        expected = -((0.8 * soft + 0.2 / 3) * self.logits.log_softmax(-1)).sum(-1).mean()
        assert task_loss(self.logits, soft, 0.2) == pytest.approx(expected.item())

    def test_float32_from_bfloat16_logits(self):
        loss = task_loss(self.logits.bfloat16(), torch.tensor([0, 2]))
        assert loss.dtype == torch.float32
        assert loss == pytest.approx(task_loss(self.logits, torch.tensor([0, 2])).item(), abs=1e-2)


class TestStep:
    def test_the_teachers_knowledge_moves_the_student_alone(self, tmp_path):
        trainer = make_trainer(tmp_path)
        student, teacher = weights(trainer.model), weights(trainer.teacher)
        trainer.train()
        moved = {name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, student[name])}
        assert "classifier.dense.weight" in moved
        assert any(name.startswith("cav_mae.audio_layers") for name in moved)
        assert all(torch.equal(tensor, teacher[name]) for name, tensor in trainer.teacher.state_dict().items())
        assert all(parameter.grad is None for parameter in trainer.teacher.parameters())
        optimised = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
        assert optimised == {id(p) for p in trainer.model.parameters() if p.requires_grad}
        assert not trainer.teacher.model.training

    def test_logged_parts_are_the_objectives_and_add_up(self, tmp_path):
        trainer = make_trainer(tmp_path, label_smoothing_factor=0.1, task_weight=0.7)
        student, batch = make_model(), first_batch(trainer)
        with torch.no_grad():
            signal, output = trainer.teacher(**batch), student(**trainer.model_inputs(batch), output_tokens=True)
            expected = {"task": 0.7 * F.cross_entropy(output.logits, batch["labels"], label_smoothing=0.1)}
            for objective in trainer.objectives:
                expected |= objective(output, signal)
        trainer.train()
        line = logged(trainer)[0]
        assert set(expected) == {"task", "em_ktd_audio", "em_ktd_visual", "em_ktd_fusion", "kd"}
        for name, value in expected.items():
            assert line[f"loss_{name}"] == pytest.approx(value.item(), rel=1e-5)
        for line in logged(trainer):
            assert parts_of(line) == pytest.approx(line["loss"], rel=1e-5)

    def test_mean_branch_weights_are_exp_of_minus_lambda_entropy(self, tmp_path):
        trainer = make_trainer(tmp_path, entropy_lambda=0.8, max_steps=1)
        batch = first_batch(trainer)
        tokens = trainer.teacher(**batch).tokens
        trainer.train()
        for branch in BRANCHES:
            probe = trainer.teacher.monitor.probes[branch]
            probabilities = probe(tokens[branch].mean(dim=1)).softmax(-1)
            entropy = -(probabilities * probabilities.log()).sum(-1)
            assert entropy.std() > 0.01
            expected = torch.exp(-0.8 * entropy).mean().item()
            assert logged(trainer)[0][f"weight_{branch}"] == pytest.approx(expected, rel=1e-5)

    def test_labels_only_needs_no_teacher(self, tmp_path):
        args = make_arguments(tmp_path, objective=["none"], max_steps=1)
        trainer = make_trainer(tmp_path, objective=["none"], max_steps=1)
        assert trainer.teacher is None and args.objective == []
        trainer.train()
        line = logged(trainer)[0]
        assert line["loss_task"] == pytest.approx(line["loss"])
        assert not any(name.startswith("weight_") for name in line)

    def test_soft_labels_of_mixup(self, tmp_path):
        views = make_views(make_features(), AugmentationArguments(mixup_probability=1.0))
        trainer = make_trainer(tmp_path, views=views, label_smoothing_factor=0.1, max_steps=1)
        batch = first_batch(trainer)
        assert batch["labels"].shape == (8, 3)
        assert (batch["labels"].max(dim=1).values < 1).any()
        with torch.no_grad():
            logits = make_model()(**trainer.model_inputs(batch)).logits
        trainer.train()
        expected = F.cross_entropy(logits, batch["labels"], label_smoothing=0.1).item()
        assert logged(trainer)[0]["loss_task"] == pytest.approx(expected, rel=1e-5)


class TestAccumulation:
    @pytest.mark.parametrize("scale", ["none", "teacher_spread"])
    @pytest.mark.parametrize("augmentation", [OFF, ALL_VIEWS], ids=["plain", "augmented"])
    def test_twice_eight_is_once_sixteen(self, tmp_path, scale, augmentation):
        def run(batch, accumulation):
            views = make_views(make_features(), augmentation)
            trainer = make_trainer(
                tmp_path,
                views=views,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulation,
                max_steps=2,
                ktd_scale=scale,
                ktd_weight=1.0 if scale == "teacher_spread" else 30.0,
                label_smoothing_factor=0.1,
                modality_dropout=0.5,
            )
            trainer.train()
            return trainer

        whole, split = run(16, 1), run(8, 2)
        before = weights(make_model())
        for name, tensor in whole.model.state_dict().items():
            torch.testing.assert_close(split.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)
        assert any((tensor - before[name]).abs().max() > 1e-3 for name, tensor in whole.model.state_dict().items())
        for one, two in zip(logged(whole), logged(split), strict=True):
            for name in one:
                assert two[name] == pytest.approx(one[name], rel=1e-4), name

    def test_parts_add_up_where_an_epoch_ends_with_fewer_batches(self, tmp_path):
        """24 clips in batches of 8, two to a step: a step of two and one of one; one log line for both."""
        views = make_views(make_features(count=24))
        trainer = make_trainer(
            tmp_path, views=views, gradient_accumulation_steps=2, max_steps=-1, num_train_epochs=1, logging_steps=2
        )
        trainer.train()
        (line,) = logged(trainer)
        assert line["step"] == 2
        assert parts_of(line) == pytest.approx(line["loss"], rel=1e-5)


class TestMixedPrecision:
    def test_bfloat16_trains_with_float32_gram_matrices(self, tmp_path):
        trainer = make_trainer(tmp_path, bf16=True, max_steps=2)
        logits, seen = [], []
        trainer.model.classifier.register_forward_hook(lambda module, args, output: logits.append(output.dtype))
        objective = trainer.objectives[0]
        objective.register_forward_hook(lambda module, args, parts: seen.append((*args[:2], parts)))
        trainer.train()
        assert set(logits) == {torch.bfloat16}  # autocast was on
        (output, signal, parts), _ = seen
        grams = [objective.kernel.gram(tokens.double()) for tokens in (output.audio_tokens, signal.tokens["audio"])]
        losses = F.huber_loss(*grams, reduction="none").mean(dim=(1, 2))
        expected = objective.weight * (objective.branch_weights(signal)["audio"] * losses).mean()
        assert parts["em_ktd_audio"].item() == pytest.approx(expected.item(), rel=1e-5)
        for line in logged(trainer):
            assert all(math.isfinite(value) for value in line.values())
            assert parts_of(line) == pytest.approx(line["loss"], rel=1e-4)
        assert all(tensor.dtype == torch.float32 for tensor in trainer.model.parameters())

    def test_close_to_float32(self, tmp_path):
        runs = [make_trainer(tmp_path, bf16=bf16, max_steps=1) for bf16 in (False, True)]
        lines = []
        for trainer in runs:
            trainer.train()
            lines.append(logged(trainer)[0])
        assert lines[1]["loss"] == pytest.approx(lines[0]["loss"], rel=2e-2)
        assert lines[1]["loss"] != lines[0]["loss"]


class Killed(Exception):
    pass


class KillAt(TrainerCallback):
    """Ends the process' training before it saves or logs this step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


class TestResume:
    # 12 clips in batches of 4: three steps an epoch, nine in all; checkpoints every save_steps
    @pytest.mark.parametrize(
        "save_steps, killed_at, resumed_from", [(3, 5, 3), (2, 4, 2), (2, 6, 4)], ids=["epoch", "inside", "later"]
    )
    def test_equals_the_uninterrupted_run_bit_by_bit(self, tmp_path, save_steps, killed_at, resumed_from):
        def run(folder):
            return make_trainer(
                tmp_path / folder,
                views=make_views(make_features(count=12, labels=[0] * 8 + [1] * 3 + [2]), ALL_VIEWS),
                optim="adamw_torch",
                learning_rate=1e-2,
                lr_scheduler_type="cosine",
                max_steps=-1,
                num_train_epochs=3,
                per_device_train_batch_size=4,
                save_strategy="steps",
                save_steps=save_steps,
                balanced_sampling=True,
                modality_dropout=0.3,
                head_learning_rate_factor=10.0,
                ktd_scale="teacher_spread",
                ktd_weight=1.0,
            )

        straight = run("straight")
        straight.train()
        killed = run("killed")
        killed.add_callback(KillAt(killed_at))
        with pytest.raises(Killed):
            killed.train()
        assert Path(last_checkpoint(tmp_path / "killed")).name == f"checkpoint-{resumed_from}"
        torch.manual_seed(123)  # nothing may hang on the random state that a new process happens to have
        resumed = run("killed")
        resumed.train(resume_from_checkpoint="last")
        assert [line["step"] for line in logged(resumed)] == list(range(1, 10))
        for one, two in zip(logged(straight), logged(resumed), strict=True):
            assert one == two
        for name, tensor in straight.model.state_dict().items():
            assert torch.equal(resumed.model.state_dict()[name], tensor), name
        assert torch.equal(resumed.objectives[0].teacher_spread, straight.objectives[0].teacher_spread)

    def test_last_without_a_checkpoint_starts_anew(self, tmp_path):
        trainer = make_trainer(tmp_path / "new", max_steps=1)
        trainer.train(resume_from_checkpoint="last")
        assert trainer.state.global_step == 1

    def test_last_is_the_newest_that_was_saved_to_its_end(self, tmp_path):
        assert last_checkpoint(tmp_path / "nowhere") is None
        for name in ("checkpoint-9", "checkpoint-10", "checkpoint-11"):
            (tmp_path / name).mkdir()
        assert last_checkpoint(tmp_path) is None
        for name in ("checkpoint-9", "checkpoint-10"):
            (tmp_path / name / "trainer_state.json").write_text("{}")
        assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


class TestCheckpoint:
    @pytest.fixture
    def folder(self, tmp_path):
        student = make_model()
        args = make_arguments(tmp_path, max_steps=1, save_strategy="steps", save_steps=1, ktd_scale="teacher_spread")
        trainer = make_trainer(
            tmp_path,
            student=student,
            objectives=build_objectives(args, student.config, student.config),
            max_steps=1,
            save_strategy="steps",
            save_steps=1,
        )
        trainer.processor = CavMaeProcessor.from_config(student.config)
        trainer.train()
        return tmp_path / "checkpoint-1"

    def test_holds_the_student_and_nothing_of_the_teacher(self, folder):
        saved = load_file(folder / "model.safetensors")
        assert set(saved) == set(make_model().state_dict())
        optimiser = torch.load(folder / "optimizer.pt", weights_only=True)
        trained = [p for p in make_model().parameters() if p.requires_grad]
        assert sum(len(group["params"]) for group in optimiser["param_groups"]) == len(trained)
        size = sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".safetensors", ".pt", ".bin"))
        assert size < 3 * (folder / "model.safetensors").stat().st_size

    def test_is_a_whole_model_with_its_processor(self, folder):
        model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
        assert isinstance(processor, CavMaeProcessor)
        inputs = processor(
            audio=np.zeros(4000, np.float32), images=np.zeros((20, 20, 3), np.uint8), sampling_rate=16000,
            return_tensors="pt",
        )  # fmt: skip
        assert model(**inputs).logits.shape == (1, 3)

    def test_processor_is_written_by_the_saving_process_only(self, tmp_path, monkeypatch):
        trainer = make_trainer(tmp_path, max_steps=1)
        trainer.processor = CavMaeProcessor.from_config(trainer.model.config)
        monkeypatch.setattr(type(trainer.args), "should_save", property(lambda self: False))
        trainer.save_model(tmp_path / "other_rank")
        assert not (tmp_path / "other_rank").exists()


class TestModalityDropout:
    @staticmethod
    def spy(trainer):
        """Records the inputs of the student and of the teacher."""
        seen = {"student": [], "teacher": []}
        for role, model in (("student", trainer.model), ("teacher", trainer.teacher.model)):
            model.register_forward_pre_hook(
                lambda module, args, kwargs, role=role: seen[role].append(sorted(set(kwargs) - {"output_tokens"})),
                with_kwargs=True,
            )
        return seen

    def test_one_input_for_the_student_both_for_the_teacher(self, tmp_path):
        trainer = make_trainer(tmp_path, modality_dropout=1.0, max_steps=8, per_device_train_batch_size=4)
        seen = self.spy(trainer)
        trainer.train()
        assert {tuple(names) for names in seen["student"]} == {("input_values",), ("pixel_values",)}
        assert {tuple(names) for names in seen["teacher"]} == {("input_values", "pixel_values")}
        branch_of = {"input_values": "audio", "pixel_values": "visual"}
        for names, line in zip(seen["student"], logged(trainer), strict=True):
            branch = branch_of[names[0]]
            assert {name for name in line if name.startswith("loss_")} == {
                "loss_task",
                f"loss_em_ktd_{branch}",
                "loss_kd",
            }
            assert {name for name in line if name.startswith("weight_")} == {f"weight_{branch}"}
            assert parts_of(line) == pytest.approx(line["loss"], rel=1e-5)

    def test_norms_of_both_modalities_are_trained(self, tmp_path):
        trainer = make_trainer(tmp_path, modality_dropout=1.0, max_steps=8, per_device_train_batch_size=4)
        before = weights(trainer.model)
        trainer.train()
        for name in (
            "layernorm_audio.weight",
            "layernorm_visual.weight",
            "joint_layers.0.layernorm_before_audio.weight",
        ):
            assert not torch.equal(trainer.model.state_dict()[f"cav_mae.{name}"], before[f"cav_mae.{name}"])

    def test_probability(self, tmp_path):
        trainer = make_trainer(tmp_path, modality_dropout=0.4)
        inputs = {"input_values": torch.zeros(1), "pixel_values": torch.zeros(1)}
        kept = []
        for step in range(2000):
            trainer.state.global_step = step
            kept.append(tuple(trainer.drop_modality(inputs)))
        shares = [kept.count(names) / 2000 for names in (tuple(inputs), ("input_values",), ("pixel_values",))]
        assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.04)

    def test_the_batches_of_a_step_agree(self, tmp_path):
        trainer = make_trainer(
            tmp_path, modality_dropout=0.5, max_steps=6, per_device_train_batch_size=2, gradient_accumulation_steps=2
        )
        seen = self.spy(trainer)["student"]
        trainer.train()
        assert len(seen) == 12 and seen[0::2] == seen[1::2]
        assert len({tuple(names) for names in seen}) > 1

    def test_a_single_modality_is_never_dropped(self, tmp_path):
        trainer = make_trainer(tmp_path, modality_dropout=1.0)
        assert list(trainer.drop_modality({"pixel_values": torch.zeros(1)})) == ["pixel_values"]

    def test_off_by_default(self, tmp_path):
        trainer = make_trainer(tmp_path)
        seen = self.spy(trainer)
        trainer.train()
        assert {tuple(names) for names in seen["student"]} == {("input_values", "pixel_values")}


class TestBalancedSampling:
    def test_rare_classes_come_as_often(self, tmp_path):
        labels = [0] * 900 + [1] * 90 + [2] * 10
        views = make_views(make_features(labels=labels[::100]))  # only its labels matter here
        views.features = views.features.select([0] * 1000)
        trainer = AudioVisualTrainer(
            make_model(),
            make_arguments(tmp_path, AudioVisualTrainingArguments, balanced_sampling=True),
            train_dataset=views,
            train_labels=labels,
        )
        drawn = np.array(labels)[[clip for clip, _ in trainer._get_train_sampler()]]
        shares = balanced_sample_weights(labels, 3)
        assert len(drawn) == 1000
        np.testing.assert_allclose(np.bincount(drawn) / 1000, [1 / 3] * 3, atol=0.06)
        np.testing.assert_allclose(shares[[0, 900, 990]], [1000 / 900.01, 1000 / 90.01, 1000 / 10.01])

    def test_needs_the_labels(self, tmp_path):
        args = make_arguments(tmp_path, AudioVisualTrainingArguments, balanced_sampling=True)
        with pytest.raises(ValueError, match="balanced_sampling=True needs train_labels"):
            AudioVisualTrainer(make_model(), args, train_dataset=make_views(make_features()))

    def test_labels_must_be_those_of_the_clips(self, tmp_path):
        args = make_arguments(tmp_path, AudioVisualTrainingArguments, balanced_sampling=True)
        with pytest.raises(ValueError, match="3 class ids for 16 training clips"):
            AudioVisualTrainer(make_model(), args, train_dataset=make_views(make_features()), train_labels=[0, 1, 2])


class TestHeadLearningRate:
    def optimizer(self, tmp_path, **options):
        trainer = make_trainer(tmp_path, optim="adamw_torch", weight_decay=0.1, learning_rate=1e-3, **options)
        return trainer.model, trainer.create_optimizer()

    def test_only_the_head_is_faster_and_no_parameter_is_lost_or_doubled(self, tmp_path):
        model, optimizer = self.optimizer(tmp_path, head_learning_rate_factor=10.0)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        rates, decays = {}, {}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                assert names[id(parameter)] not in rates
                rates[names[id(parameter)]] = group["lr"]
                decays[names[id(parameter)]] = group["weight_decay"]
        assert set(rates) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        for name, rate in rates.items():
            assert rate == pytest.approx(1e-2 if name.startswith("classifier.") else 1e-3), name
        _, plain = self.optimizer(tmp_path)
        expected = {}
        for group in plain.param_groups:
            expected |= {len(expected) + i: group["weight_decay"] for i, _ in enumerate(group["params"])}
        assert sorted(decays.values()) == sorted(expected.values())
        assert decays["classifier.dense.weight"] == 0.1
        assert decays["classifier.dense.bias"] == decays["classifier.layernorm.weight"] == 0.0

    def test_the_schedule_keeps_the_factor(self, tmp_path):
        trainer = make_trainer(tmp_path, head_learning_rate_factor=4.0, lr_scheduler_type="linear", learning_rate=0.01)
        trainer.create_optimizer_and_scheduler(num_training_steps=4)
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        assert sorted({group["lr"] for group in trainer.optimizer.param_groups}) == pytest.approx([0.0075, 0.03])

    def test_needs_a_model_with_a_backbone(self, tmp_path):
        model = make_model().cav_mae
        args = make_arguments(tmp_path, AudioVisualTrainingArguments, head_learning_rate_factor=10.0)
        with pytest.raises(ValueError, match="CavMaeModel has no module named by base_model_prefix"):
            AudioVisualTrainer(model, args, train_dataset=make_views(make_features()))


class TestGivenOptimizer:
    """An optimizer of the caller's own, given with `optimizers`."""

    def given(self, tmp_path, with_projections, **options):
        student, args = make_model(), make_arguments(tmp_path, objective=["vkd"])
        (vkd,) = build_objectives(args, student.config, student.config)
        assert any(parameter.requires_grad for parameter in vkd.parameters())
        own = [*student.parameters(), *(vkd.parameters() if with_projections else ())]
        optimizers = (torch.optim.SGD(own, lr=0.05), None)
        return vkd, make_trainer(tmp_path, student=student, objectives=[vkd], optimizers=optimizers, **options)

    def test_must_hold_what_objectives_learn(self, tmp_path):
        with pytest.raises(ValueError, match=r"lacks parameters of vkd, .*: add objective.parameters\(\) of each"):
            self.given(tmp_path, with_projections=False)

    def test_trains_what_objectives_learn(self, tmp_path):
        vkd, trainer = self.given(tmp_path, with_projections=True)
        before = weights(vkd)
        trainer.train()
        assert any(not torch.equal(tensor, before[name]) for name, tensor in vkd.state_dict().items())

    def test_has_the_rate_of_the_head_already(self, tmp_path):
        with pytest.raises(ValueError, match="is for the optimizer of the trainer, got one"):
            self.given(tmp_path, with_projections=True, head_learning_rate_factor=10.0)


class TestRefusals:
    def test_other_labels(self, tmp_path):
        student = make_model(id2label={0: "bell", 1: "rain", 2: "dog"})
        with pytest.raises(ValueError, match="1: student 'rain', teacher 'dog'"):
            make_trainer(tmp_path, student=student)

    def test_another_number_of_labels(self, tmp_path):
        student = make_model(id2label={0: "bell", 1: "dog"})
        with pytest.raises(ValueError, match="the student has 2 classes, the teacher 3"):
            make_trainer(tmp_path, student=student)

    def test_missing_teacher(self, tmp_path):
        args = make_arguments(tmp_path)
        student = make_model()
        objectives = build_objectives(args, student.config, student.config)
        with pytest.raises(ValueError, match="EntropyMonitoredDistillation, LogitDistillation need a teacher"):
            EMKTDTrainer(student, args, objectives=objectives)

    @pytest.mark.parametrize("kind", [AudioVisualTrainer, EMKTDTrainer])
    def test_missing_model(self, tmp_path, kind):
        options = {"teacher": make_teacher(), "objectives": [LogitDistillation()]} if kind is EMKTDTrainer else {}
        with pytest.raises(ValueError, match=r"expected a model, got None: .* model_init is not supported"):
            kind(None, make_arguments(tmp_path), model_init=make_model, **options)

    def test_missing_monitor(self, tmp_path):
        with pytest.raises(ValueError, match="need branch entropies"):
            make_trainer(tmp_path, teacher=LiveTeacher(make_model(seed=1)))

    def test_ktd_needs_no_monitor(self, tmp_path):
        trainer = make_trainer(tmp_path, teacher=LiveTeacher(make_model(seed=1)), objective=["ktd"], max_steps=1)
        trainer.train()
        assert "loss_ktd_fusion" in logged(trainer)[0]

    def test_a_finer_student_grid(self, tmp_path):
        with pytest.raises(ValueError, match="finer than the teacher's"):
            make_trainer(tmp_path, student=make_model(patch_size=4))

    def test_one_objective_twice(self, tmp_path):
        with pytest.raises(ValueError, match="every objective may be given once, got kd, kd"):
            make_trainer(tmp_path, objectives=[LogitDistillation(), LogitDistillation(temperature=1.0)])

    def test_a_kernel_that_is_still_open(self, tmp_path):
        with pytest.raises(ValueError, match="leaves the kernel of em_ktd open: choose one with choose_kernel"):
            make_trainer(tmp_path, ktd_kernel="auto")
        set_kernel = ['em_ktd.kernel={"name": "polynomial", "degree": 3}']
        trainer = make_trainer(tmp_path, ktd_kernel="auto", objective_options=set_kernel)
        assert trainer.objectives[0].kernel == TokenKernel("polynomial", degree=3)


class TestCalibration:
    def test_spread_is_that_of_the_clips_and_no_part_of_the_student(self, tmp_path):
        trainer = make_trainer(tmp_path, ktd_scale="teacher_spread", ktd_weight=1.0, max_steps=1)
        objective = trainer.objectives[0]
        assert objective.requires_calibration
        state = torch.get_rng_state()
        trainer.calibrate()
        assert torch.equal(torch.get_rng_state(), state)
        batch = AudioVisualCollator()([trainer.train_dataset[clip, 0] for clip in range(16)])
        tokens = trainer.teacher(**batch).tokens["visual"]
        gram = objective.kernel.gram(tokens).flatten(1)
        expected = F.huber_loss(gram, gram.mean(1, keepdim=True).expand_as(gram)).item()
        assert objective.teacher_spread[BRANCHES.index("visual")].item() == pytest.approx(expected, rel=1e-4)
        assert not any("spread" in name for name in trainer.model.state_dict())

    @pytest.mark.parametrize(("asked", "seen"), [(0, 4), (11, 11)])
    def test_an_objective_sees_as_many_clips_as_it_asks_for(self, tmp_path, asked, seen):
        class Counting(LogitDistillation):
            requires_calibration = True

            def calibrate(self, signals):
                self.clips = sum(len(signal.logits) for signal in signals)

        objective = Counting()
        objective.calibration_clips = asked
        make_trainer(tmp_path, objectives=[objective], calibration_clips=4).calibrate()
        assert objective.clips == seen

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_leaves_the_random_state_of_the_device(self, tmp_path):
        trainer = make_trainer(tmp_path, ktd_scale="teacher_spread", use_cpu=False)
        torch.rand(3, device=trainer.args.device)
        state = torch.cuda.get_rng_state(trainer.args.device)
        trainer.calibrate()
        assert torch.equal(torch.cuda.get_rng_state(trainer.args.device), state)

    def test_signals_come_one_batch_at_a_time(self, tmp_path):
        trainer = make_trainer(tmp_path, per_device_train_batch_size=4)
        signals = trainer._calibration_signals(11)
        assert iter(signals) is signals  # a generator: the tokens of many clips are never held at once
        assert [len(signal.logits) for signal in signals] == [4, 4, 3]

    def test_clips_are_drawn_over_the_whole_split(self, tmp_path):
        """Tables are often sorted by class."""
        views = make_views(make_features(labels=[0] * 30 + [1] * 30 + [2] * 30))
        trainer = make_trainer(tmp_path, views=views, calibration_clips=30, ktd_scale="teacher_spread")
        seen = []
        collate = trainer.data_collator
        trainer.data_collator = lambda items: seen.extend(item["label"] for item in items) or collate(items)
        trainer.calibrate()
        assert len(seen) == 30 and set(seen) == {0, 1, 2}


class TestSmallerStudent:
    def test_half_the_picture_and_sound_trains_on_pooled_tokens(self, tmp_path):
        teacher = make_model(seed=1, image_size=32)
        student = make_model(audio_length=16, image_size=16)
        views = make_views(make_features(size=32), student=student, teacher=teacher)
        live = LiveTeacher(teacher, make_monitor(teacher))
        trainer = make_trainer(tmp_path, student=student, teacher=live, views=views)
        batch = first_batch(trainer)
        assert batch["teacher_pixel_values"].shape == (8, 3, 32, 32)
        assert batch["teacher_input_values"].shape == (8, 32, 32)
        assert set(trainer.model_inputs(batch)) == {"input_values", "pixel_values"}
        before = weights(student)
        trainer.train()
        assert not torch.equal(before["cav_mae.visual_layers.0.mlp.fc1.weight"],
                               trainer.model.cav_mae.visual_layers[0].mlp.fc1.weight)  # fmt: skip
        assert all(line["loss_em_ktd_fusion"] > 0 for line in logged(trainer))


class TestEvaluation:
    def test_metrics_get_logits_only(self, tmp_path):
        seen = []

        def metrics(prediction):
            seen.append(prediction)
            return compute_event_metrics(prediction)

        trainer = make_trainer(tmp_path, per_device_eval_batch_size=3)
        trainer.compute_metrics = metrics
        result = trainer.evaluate()
        (prediction,) = seen
        assert isinstance(prediction.predictions, np.ndarray)  # a tuple, if tokens were gathered
        assert prediction.predictions.shape == (7, 3)
        batch = AudioVisualCollator()(list(trainer.eval_dataset))
        with torch.no_grad():
            logits = trainer.model(**trainer.model_inputs(batch)).logits
        np.testing.assert_allclose(prediction.predictions, logits.numpy(), rtol=1e-5, atol=1e-6)
        assert result["eval_accuracy"] == pytest.approx((logits.argmax(-1) == batch["labels"]).float().mean().item())

    def test_loss_is_the_plain_cross_entropy(self, tmp_path):
        trainer = make_trainer(
            tmp_path, label_smoothing_factor=0.3, modality_dropout=1.0, per_device_eval_batch_size=7
        )
        batch = AudioVisualCollator()(list(trainer.eval_dataset))
        with torch.no_grad():
            logits = trainer.model(**trainer.model_inputs(batch)).logits
        expected = F.cross_entropy(logits, batch["labels"]).item()
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)

    def test_clips_without_labels_are_answered(self, tmp_path):
        """Of the teacher's inputs and the clips' names the model knows nothing."""
        student, teacher = make_model(), make_model(seed=1, image_size=32)
        views = make_views(make_features(count=7, size=32, seed=1), student=student, teacher=teacher)
        labelled = [views[clip, 0] for clip in range(7)]
        unlabelled = [{name: value for name, value in view.items() if name != "label"} for view in labelled]
        trainer = make_trainer(tmp_path, student=student, per_device_eval_batch_size=3)
        answer = trainer.predict(unlabelled)
        np.testing.assert_array_equal(answer.predictions, trainer.predict(labelled).predictions)
        assert answer.predictions.shape == (7, 3) and answer.label_ids is None
        assert "test_loss" not in answer.metrics

    def test_evaluation_within_training_changes_nothing(self, tmp_path):
        runs = [make_trainer(tmp_path, max_steps=4, eval_strategy=when, eval_steps=1) for when in ("no", "steps")]
        for trainer in runs:
            trainer.train()
        assert sum("eval_loss" in line for line in runs[1].state.log_history) == 4
        for name, tensor in runs[0].model.state_dict().items():
            assert torch.equal(runs[1].model.state_dict()[name], tensor)


class WithKeywords(CavMaeForAudioVisualClassification):
    def forward(self, input_values=None, pixel_values=None, labels=None, **kwargs):
        return super().forward(input_values, pixel_values, labels)


class TestSupervised:
    def test_loss_is_divided_by_accumulation_steps(self, tmp_path):
        """
        The Trainer takes the loss of a model that accepts any keyword as divided already, and would train with twice
        the gradient; see `loss_is_scaled_for_ga`.
        """
        lines = []
        for batch, accumulation in ((16, 1), (8, 2)):
            torch.manual_seed(0)
            trainer = AudioVisualTrainer(
                WithKeywords(make_model().config),
                make_arguments(
                    tmp_path,
                    AudioVisualTrainingArguments,
                    per_device_train_batch_size=batch,
                    gradient_accumulation_steps=accumulation,
                ),
                train_dataset=make_views(make_features()),
                data_collator=AudioVisualCollator(),
            )
            trainer.train()
            lines.append(logged(trainer))
        for one, two in zip(*lines, strict=True):
            for name in ("loss", "loss_task", "grad_norm"):
                assert two[name] == pytest.approx(one[name], rel=1e-4)

    def test_takes_plain_items_as_well_as_views(self, tmp_path):
        views = make_views(make_features())
        items = [views[clip, 0] for clip in range(16)]
        trainer = AudioVisualTrainer(
            make_model(),
            make_arguments(tmp_path, AudioVisualTrainingArguments),
            train_dataset=items,
            data_collator=AudioVisualCollator(),
        )
        trainer.train()
        assert trainer.state.global_step == 2
        json.dumps(trainer.state.log_history)


class TestOtherLoaders:
    """Where the clips do not come in the order of a [`ClipSampler`]."""

    def test_takes_an_iterable_data_set(self, tmp_path):
        views = make_views(make_features())
        stream = views.features.to_iterable_dataset().shuffle(seed=0, buffer_size=4)
        collate = AudioVisualCollator()
        trainer = make_trainer(
            tmp_path,
            views=stream,
            collator=lambda rows: collate([views.transform.view(row, 0) for row in rows]),
            ktd_scale="teacher_spread",
            max_steps=4,
        )
        trainer.train()
        assert trainer.state.global_step == 4
        assert stream.epoch == 1  # of the second pass

    def test_takes_a_loader_of_the_callers_own(self, tmp_path):
        views = make_views(make_features())

        class InOrder(AudioVisualTrainer):
            def get_train_dataloader(self):
                return DataLoader([views[clip, 0] for clip in range(16)], 8, collate_fn=self.data_collator)

        args = make_arguments(tmp_path, AudioVisualTrainingArguments)
        trainer = InOrder(make_model(), args, train_dataset=views, data_collator=AudioVisualCollator())
        trainer.train()
        assert trainer.state.global_step == 2

    def test_balance_of_classes_needs_an_order(self, tmp_path):
        stream = make_features().to_iterable_dataset()
        args = make_arguments(tmp_path, AudioVisualTrainingArguments, balanced_sampling=True)
        with pytest.raises(ValueError, match="a stream comes in an order of its own"):
            AudioVisualTrainer(make_model(), args, train_dataset=stream, train_labels=[0] * 16)
