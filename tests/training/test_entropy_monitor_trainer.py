"""Probes on pooled tokens: what is pooled, trained and measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_runs import LABELS, make_arguments, make_features, make_model, make_monitor, make_views, weights

from hf_emktd.data import AudioVisualCollator, AugmentationArguments
from hf_emktd.distillation import (
    BRANCHES,
    EntropyMonitor,
    EntropyMonitorConfig,
    LiveTeacher,
    fingerprint,
    token_grids,
)
from hf_emktd.models.avsegformer import AvSegFormerConfig, AvSegFormerForAudioVisualSegmentation
from hf_emktd.training import (
    EMKTDTrainer,
    EntropyMonitorArguments,
    EntropyMonitorTrainer,
    build_objectives,
    find_monitor,
    train_monitor,
)


def monitor_arguments(folder, **options):
    defaults = {"max_steps": -1, "num_train_epochs": 2, "min_steps": 0}
    defaults |= {"logging_strategy": "no", "per_device_eval_batch_size": 4}
    return make_arguments(folder, EntropyMonitorArguments, **(defaults | options))


@pytest.fixture
def run(tmp_path):
    def make(monitor=None, **options):
        teacher = make_model(seed=1)
        return EntropyMonitorTrainer(
            monitor or make_monitor(teacher),
            LiveTeacher(teacher),
            monitor_arguments(tmp_path, **options),
            train_dataset=make_views(make_features(count=10)),
            eval_dataset=make_views(make_features(count=7, seed=1)),
            data_collator=AudioVisualCollator(),
        )

    return make


def test_pools_the_mean_token_of_each_branch_in_the_order_of_the_clips(run):
    trainer = run()
    batch = AudioVisualCollator()([make_views(make_features(count=10))[clip, 0] for clip in range(10)])
    tokens = LiveTeacher(make_model(seed=1))(**batch).tokens
    *columns, labels = trainer.train_dataset.tensors
    assert trainer.branches == list(BRANCHES)
    for branch, column in zip(BRANCHES, columns, strict=True):
        torch.testing.assert_close(column, tokens[branch].mean(dim=1), rtol=1e-5, atol=1e-6)
    assert labels.tolist() == batch["labels"].tolist()
    assert len(trainer.eval_dataset) == 7


def test_statistics_by_hand(run):
    trainer = run(learning_rate=0.0)
    trainer.train()
    *columns, labels = trainer.eval_dataset.tensors
    for branch, column in zip(BRANCHES, columns, strict=True):
        probabilities = trainer.model.probes[branch](column).softmax(-1).detach().double().numpy()
        entropies = -(probabilities * np.log(probabilities)).sum(-1)
        measured = trainer.model.config.statistics["eval"][branch]
        assert measured["accuracy"] == pytest.approx((probabilities.argmax(-1) == labels.numpy()).mean())
        assert measured["entropy_mean"] == pytest.approx(entropies.mean(), rel=1e-5)
        assert measured["entropy_std"] == pytest.approx(entropies.std(), rel=1e-4)
        assert measured["entropy_quartiles"] == pytest.approx(np.quantile(entropies, [0.25, 0.5, 0.75]).tolist())


def test_learns_what_the_tokens_tell(run):
    trainer = run(num_train_epochs=150, learning_rate=0.1, optim="adamw_torch", lr_scheduler_type="cosine")
    untrained = trainer.statistics(trainer.train_dataset)
    trainer.train()
    statistics = trainer.model.config.statistics
    for branch in BRANCHES:
        assert statistics["train"][branch]["accuracy"] == 1.0 > untrained[branch]["accuracy"]
        assert (
            0 <= statistics["train"][branch]["entropy_mean"] < statistics["eval"][branch]["entropy_mean"] < np.log(3)
        )


def test_accumulated_steps_equal_whole_ones(run):
    whole, split = run(), run(per_device_train_batch_size=4, gradient_accumulation_steps=2)
    for trainer in (whole, split):
        trainer.train_dataset = torch.utils.data.Subset(trainer.train_dataset, range(8))
        super(EntropyMonitorTrainer, trainer).train()
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(split.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_evaluates_while_it_trains(run):
    trainer = run(eval_strategy="epoch")
    trainer.train()
    assert [line["eval_loss"] > 0 for line in trainer.state.log_history if "eval_loss" in line] == [True, True]


def test_clips_of_one_sense_are_refused(tmp_path):
    features = make_features(count=4)
    features = features.remove_columns("fbank").add_column("fbank", [None] * 4)
    teacher = make_model(seed=1)
    with pytest.raises(ValueError, match="no audio, fusion tokens: a monitor needs clips with sound and picture"):
        EntropyMonitorTrainer(
            make_monitor(teacher),
            LiveTeacher(teacher),
            monitor_arguments(tmp_path),
            train_dataset=make_views(features),
            eval_dataset=make_views(features),
            data_collator=AudioVisualCollator(),
        )


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"min_steps": 0}, 2),
        ({"min_steps": 7}, 4),  # ten clips are two steps of eight
        ({"min_steps": 4}, 2),
        ({"min_steps": 7, "gradient_accumulation_steps": 2}, 7),
        ({"min_steps": 7, "per_device_train_batch_size": 2}, 2),
    ],
)
def test_small_sets_take_more_epochs(run, options, epochs):
    assert run(**options).args.num_train_epochs == epochs


def test_small_sets_take_the_steps_of_four_thousand_clips_by_default(tmp_path):
    args = EntropyMonitorArguments(output_dir=str(tmp_path), use_cpu=True)
    assert args.min_steps == args.num_train_epochs * -(-4000 // args.per_device_train_batch_size)


def test_negative_steps_are_refused(tmp_path):
    with pytest.raises(ValueError, match="min_steps must not be negative, got -1"):
        monitor_arguments(tmp_path, min_steps=-1)


class TestTrainMonitor:
    def test_is_an_artefact_that_knows_its_teacher(self, tmp_path, data):
        teacher = make_model(seed=1)
        before = weights(teacher)
        monitor = train_monitor(teacher, data, monitor_arguments(tmp_path / "entropy_monitor"), hidden_layers=1)
        loaded = find_monitor(tmp_path)
        assert isinstance(loaded, EntropyMonitor)
        assert loaded.config.teacher_fingerprint == fingerprint(teacher)
        assert loaded.config.hidden_layers == 1
        assert [loaded.config.id2label[index] for index in range(3)] == LABELS
        assert loaded.config.statistics == monitor.config.statistics
        assert set(loaded.config.statistics) == {"train", "eval"}
        LiveTeacher(teacher, loaded)  # fits
        with pytest.raises(ValueError, match="fingerprint"):
            LiveTeacher(make_model(seed=2), loaded)
        assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())

    def test_measures_on_validation_clips(self, tmp_path, data, monkeypatch):
        asked = []
        plain_views = type(data).plain_views
        monkeypatch.setattr(
            type(data), "plain_views", lambda self, name: asked.append(name) or plain_views(self, name)
        )
        train_monitor(make_model(seed=1), data, monitor_arguments(tmp_path))
        del data.features["validation"]
        train_monitor(make_model(seed=1), data, monitor_arguments(tmp_path))
        assert asked == ["train", "validation", "train", "test"]

    def test_inside_a_run_in_bfloat16(self, tmp_path, data):
        """accelerate keeps one precision a process: the monitor's run takes that of the run it is part of."""
        run = make_arguments(tmp_path, bf16=True, max_steps=1)
        assert run.device.type == "cpu"  # as in distill.py, the run's machine is set up before the monitor's
        teacher = make_model(seed=1)
        monitor = train_monitor(teacher, data, EntropyMonitorArguments.within(run, str(tmp_path / "entropy_monitor")))
        trainer = EMKTDTrainer(
            make_model(),
            run,
            teacher=LiveTeacher(teacher, monitor),
            objectives=build_objectives(run, teacher.config, teacher.config),
            train_dataset=data.train_views(AugmentationArguments.none()),
            data_collator=AudioVisualCollator(),
        )
        trainer.train()
        assert trainer.accelerator.mixed_precision == "bf16"


def make_segmenter(seed: int = 1) -> AvSegFormerForAudioVisualSegmentation:
    """Two frames of 64 pixels: audio grid 4 x 6, visual grid 4 x 4 (stage 3), fusion grid 4 x 4."""
    torch.manual_seed(seed)
    vision = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "num_attention_heads": [1] * 4, "mlp_ratios": [2] * 4}
    head = {"hidden_size": 16, "num_attention_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "query_layers": 1}
    sizes = {"num_queries": 4, "feed_forward_size": 16, "query_feed_forward_size": 16, "mask_mlp_size": 16}
    sound = {"audio_channels": [4, 4, 4, 4, 8, 8], "audio_hidden_size": 16, "audio_embedding_size": 8}
    config = AvSegFormerConfig(
        **{f"vision_{name}": value for name, value in vision.items()},
        **head,
        **sizes,
        **sound,
        norm_groups=4,
        image_size=64,
        num_frames=2,
        visual_token_stage=3,
    )
    return AvSegFormerForAudioVisualSegmentation(config).eval()


def make_scenes(count: int = 6, unlabelled: bool = True, seed: int = 0) -> list[dict]:
    """Views of a bright field in the dark, left or right; `unlabelled`: the second frame has no label."""
    random = np.random.default_rng(seed)
    views = []
    for clip in range(count):
        masks = np.zeros((2, 64, 64), np.int64)
        masks[:, 16:48, 32 * (clip % 2) : 32 * (clip % 2) + 32] = 1
        pictures = 2.0 * masks[:, None] + 0.1 * random.standard_normal((2, 3, 64, 64))
        if unlabelled:
            masks[1] = -100
        sound = random.standard_normal((2, 96, 64)) + clip % 2
        views.append({"input_values": sound.astype(np.float32), "pixel_values": pictures.astype(np.float32)})
        views[-1] |= {"clip_id": f"clip{clip}", "label": 0, "labels": masks}
    return views


class Scenes:
    """What `train_monitor` asks of a data set."""

    features = ("train", "validation")

    def plain_views(self, split: str) -> list[dict]:
        return make_scenes(unlabelled=split == "train", seed=len(split))


class TestMasks:
    @pytest.fixture
    def run(self, tmp_path):
        def make(train=None, **options):
            teacher = make_segmenter()
            config = EntropyMonitorConfig(
                task=teacher.config.task,
                branch_widths=teacher.config.branch_widths,
                branch_grids=token_grids(teacher.config),
                id2label=teacher.config.id2label,
            )
            torch.manual_seed(7)
            monitor = EntropyMonitor(config)
            for probe in monitor.probes.values():
                torch.nn.init.normal_(probe[-1].weight)  # entropies that differ between frames and branches
            return EntropyMonitorTrainer(
                monitor,
                LiveTeacher(teacher),
                monitor_arguments(tmp_path, **options),
                train_dataset=make_scenes() if train is None else train,
                eval_dataset=make_scenes(count=5, unlabelled=False, seed=1),
                data_collator=AudioVisualCollator(),
            )

        return make

    def test_keeps_the_labelled_frames_in_float16(self, run):
        trainer = run()
        tokens = LiveTeacher(make_segmenter())(**AudioVisualCollator()(make_scenes())).tokens
        audio, visual, fusion, *targets = trainer.train_dataset.tensors
        assert {column.dtype for column in (audio, visual, fusion)} == {torch.float16}
        assert audio.shape == (6, 1, 1, 8) and visual.shape == fusion.shape == (6, 1, 16, 16)
        torch.testing.assert_close(audio[:, 0, 0].float(), tokens["audio"][:, :24].mean(dim=1), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(visual[:, 0].float(), tokens["visual"][:, :16], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(fusion[:, 0].float(), tokens["fusion"][:, :16], atol=1e-3, rtol=1e-3)
        for target in targets:  # rows 1 and 2 of 4, columns of the left or the right half
            assert target[1, 0].tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]
        assert [len(column) for column in trainer.eval_dataset.tensors] == [10] * 6

    def test_frames_stay_in_the_order_of_the_clips(self, run):
        frames = run(train=make_scenes(unlabelled=False)).train_dataset.tensors[-1]
        expected = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(3)
        assert torch.equal(frames[:, 0, 1, 3], expected)

    def test_statistics_by_hand(self, run):
        trainer = run(learning_rate=0.0, per_device_train_batch_size=4)
        trainer.train()
        for branch, tokens, targets in zip(
            BRANCHES, trainer.eval_dataset.tensors[:3], trainer.eval_dataset.tensors[3:], strict=True
        ):
            logits = trainer.model.probes[branch](tokens.float()).detach().double().numpy()
            probabilities = 1 / (1 + np.exp(-logits))
            found, true = probabilities >= 0.5, targets.numpy() >= 0.5
            entropies = -(probabilities * np.log(probabilities) + (1 - probabilities) * np.log(1 - probabilities))
            measured = trainer.model.config.statistics["eval"][branch]
            assert measured["accuracy"] == pytest.approx((found == true).mean())
            assert measured["iou"] == pytest.approx((found & true).sum() / (found | true).sum())
            assert measured["entropy_mean"] == pytest.approx(entropies.mean(), rel=1e-5)
            assert measured["entropy_std"] == pytest.approx(entropies.mean(axis=(1, 2, 3)).std(), rel=1e-3)
            assert len(measured["entropy_quartiles"]) == 3

    def test_learns_what_the_tokens_tell(self, run):
        trainer = run(min_steps=150, learning_rate=0.05, optim="adamw_torch", lr_scheduler_type="cosine")
        for probe in trainer.model.probes.values():
            torch.nn.init.zeros_(probe[-1].weight)
        trainer.train()
        for statistics in trainer.model.config.statistics["train"].values():
            assert statistics["iou"] > 0.9
            assert statistics["entropy_mean"] < 0.6 * np.log(2)

    def test_accumulated_steps_equal_whole_ones(self, run):
        scenes = make_scenes(count=8)
        whole = run(train=scenes)
        split = run(train=scenes, per_device_train_batch_size=4, gradient_accumulation_steps=2)
        for trainer in (whole, split):
            trainer.train()
        for name, tensor in whole.model.state_dict().items():
            torch.testing.assert_close(split.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)

    def test_evaluates_while_it_trains(self, run):
        trainer = run(eval_strategy="epoch")
        trainer.train()
        assert [line["eval_loss"] > 0 for line in trainer.state.log_history if "eval_loss" in line] == [True, True]

    def test_a_split_without_labels_is_refused(self, run):
        scenes = make_scenes(count=2)
        for scene in scenes:
            scene["labels"][:] = -100
        with pytest.raises(ValueError, match="no frame of the split has a label"):
            run(train=scenes)

    def test_train_monitor_end_to_end(self, tmp_path):
        """The artefact fits the teacher, and its entropies weight token distillation into a student."""
        teacher = make_segmenter()
        before = weights(teacher)
        args = monitor_arguments(tmp_path / "entropy_monitor")
        monitor = train_monitor(teacher, Scenes(), args, hidden_layers=1, entropy_over="foreground")
        loaded = find_monitor(tmp_path)
        assert (loaded.config.task, loaded.config.entropy_over) == ("audio-visual-segmentation", "foreground")
        assert loaded.config.branch_grids == teacher.config.branch_grids
        assert loaded.config.statistics == monitor.config.statistics
        assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
        signal = LiveTeacher(teacher, loaded)(**AudioVisualCollator()(make_scenes()))
        assert {branch: value.shape for branch, value in signal.entropies.items()} == dict.fromkeys(BRANCHES, (6,))
        student = make_segmenter(seed=2)
        options = {"objective": ["em_ktd", "kd"], "kd_temperature": 1.0, "ktd_sliding_window": True}
        run = make_arguments(tmp_path, **options)
        inputs = {name: value for name, value in AudioVisualCollator()(make_scenes()).items() if name != "labels"}
        output = student(**inputs, output_tokens=True)
        parts = {}
        for objective in build_objectives(run, student.config, teacher.config):
            parts |= objective(output, signal)
        sum(parts.values()).backward()
        assert set(parts) == {"em_ktd_audio", "em_ktd_visual", "em_ktd_fusion", "kd"}
        assert all(part.isfinite() and part > 0 for part in parts.values())
