"""Training from shards: which clips are drawn, in which views, by whom, and after an interruption."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from tiny_runs import LABELS, OFF, make_arguments, make_model, make_monitor, make_teacher, weights
from transformers import TrainerCallback

from hf_emktd.data import AudioVisualCollator, AugmentationArguments, ClipTable, write_shards
from hf_emktd.distillation import LiveTeacher
from hf_emktd.models.cav_mae import CavMaeProcessor
from hf_emktd.training import (
    DataArguments,
    EMKTDTrainer,
    EntropyMonitorArguments,
    EntropyMonitorTrainer,
    build_objectives,
    open_clips,
)
from hf_emktd.training.streamed_views import StreamedViews, clips_of_worker, view_seed

CLIPS = [f"train{index}" for index in range(12)]
NO_MIXUP = AugmentationArguments(mixup_probability=0.0)


def written(table, folder, store):
    processor = CavMaeProcessor.from_config(make_model().config)
    write_shards(ClipTable(table), folder, processor, store=store, clips_per_shard=3)
    return folder


@pytest.fixture(scope="module")
def shards(table, tmp_path_factory):
    return written(table, tmp_path_factory.mktemp("features"), "features")


@pytest.fixture(scope="module")
def media(table, tmp_path_factory):
    return written(table, tmp_path_factory.mktemp("media"), "media")


@pytest.fixture
def data(shards, processor):
    return open_clips(DataArguments(dataset=str(shards), streaming=True, shuffle_buffer=4), processor)


@pytest.fixture
def views(data) -> StreamedViews:
    return data.train_views(NO_MIXUP)


class Recorder(AudioVisualCollator):
    """Notes the clips of every batch of one epoch, and a pixel of theirs."""

    def __init__(self):
        self.batches = []

    def __call__(self, views):
        self.batches.append([(view["clip_id"], float(view["input_values"].sum())) for view in views])
        return super().__call__(views)


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def make_trainer(folder, views, recorder=None, **options) -> EMKTDTrainer:
    student, teacher = make_model(), make_teacher()
    args = make_arguments(folder, **({"per_device_train_batch_size": 4, "max_steps": 5} | options))
    return EMKTDTrainer(
        student,
        args,
        teacher=teacher,
        objectives=build_objectives(args, student.config, teacher.model.config),
        train_dataset=views,
        data_collator=recorder or AudioVisualCollator(),
    )


class TestViews:
    def test_an_epoch_is_every_clip_once_in_an_order_of_its_own(self, views):
        orders = []
        for epoch in (0, 0, 1):
            views.set_epoch(epoch)
            orders.append([view["clip_id"] for view in views])
        assert orders[0] == orders[1] != orders[2]
        assert sorted(orders[0]) == sorted(orders[2]) == sorted(CLIPS)

    def test_a_view_depends_on_seed_epoch_and_clip(self, views):
        def inputs(epoch, **changed):
            views.set_epoch(epoch)
            vars(views).update(changed)
            return {view["clip_id"]: view["input_values"] for view in views}

        first, other_epoch, two_ranks = inputs(0), inputs(1), inputs(0, ranks=2, rank=1)
        assert not np.array_equal(first["train3"], other_epoch["train3"])
        assert all(np.array_equal(first[clip_id], values) for clip_id, values in two_ranks.items())
        assert view_seed(0, 0, 0, "a") != view_seed(0, 0, 0, "b") != view_seed(0, 0, 1, "b")

    @pytest.mark.parametrize("ranks", [2, 4, 5])
    def test_ranks_draw_as_many_clips_and_share_them(self, views, ranks):
        views.ranks, drawn = ranks, Counter()
        for views.rank in range(ranks):
            own = [view["clip_id"] for view in views]
            assert len(own) == len(views) == 12 // ranks
            drawn.update(own)
        assert max(drawn.values()) == 1 or ranks == 5

    def test_a_rank_with_fewer_clips_shows_some_again_in_another_view(self, views):
        """Four shards of three clips for three ranks of four clips: two ranks have but three."""
        views.ranks, views.rank = 3, 2
        drawn = [(view["clip_id"], view["input_values"]) for view in views]
        names = [name for name, _ in drawn]
        assert len(names) == 4 and len(set(names)) == 3
        (first, again) = (values for name, values in drawn if names.count(name) == 2)
        assert not np.array_equal(first, again)

    def test_mixup_takes_its_partners_from_the_neighbours(self, data):
        views = data.train_views(AugmentationArguments(mixup_probability=1.0))
        labels = np.stack([view["label"] for view in views])
        assert labels.shape == (12, len(LABELS)) and np.allclose(labels.sum(1), 1)
        assert ((labels > 0).sum(1) == 2).sum() > 3

    def test_batches_of_workers(self):
        assert [clips_of_worker(13, 4, worker, 3) for worker in range(3)] == [5, 4, 4]
        assert [clips_of_worker(3, 4, worker, 2) for worker in range(2)] == [3, 0]

    def test_more_readers_than_clips_are_refused(self, views):
        views.ranks, views.rank = 1, 0
        with pytest.raises(ValueError, match=r"reader 39 of 40 .* has no clip"):
            next(views._views(39, 40))


class TestTraining:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_resumed_run_sees_what_the_uninterrupted_one_sees(self, tmp_path, shards, processor, workers):
        """Three steps an epoch; stopped in the middle of the second."""
        trainers = {}
        for name, stop, resume in (("whole", None, None), ("part", 4, None), ("part", None, "last")):
            args = DataArguments(dataset=str(shards), streaming=True, shuffle_buffer=4)
            views = open_clips(args, processor).train_views(AugmentationArguments())
            options = {"save_strategy": "steps", "save_steps": 4, "dataloader_num_workers": workers}
            trainer = make_trainer(tmp_path / name, views, **options)
            if stop:
                trainer.add_callback(StopAt(stop))
            trainer.train(resume_from_checkpoint=resume)
            trainers[name] = trainer
        whole, part = (weights(trainers[name].model) for name in ("whole", "part"))
        assert all(torch.equal(part[name], value) for name, value in whole.items())

    def test_every_epoch_is_the_whole_split(self, tmp_path, views):
        recorder = Recorder()
        trainer = make_trainer(tmp_path, views, recorder, max_steps=-1, num_train_epochs=2)
        trainer.train()
        assert trainer.state.global_step == 6 and len(recorder.batches) == 6
        for epoch in (recorder.batches[:3], recorder.batches[3:]):
            assert sorted(name for batch in epoch for name, _ in batch) == sorted(CLIPS)
        assert {s for batch in recorder.batches[:3] for _, s in batch} != {
            s for b in recorder.batches[3:] for _, s in b
        }

    def test_scale_is_calibrated_on_the_first_clips(self, tmp_path, views):
        trainer = make_trainer(tmp_path, views, ktd_scale="teacher_spread", calibration_clips=8, max_steps=1)
        trainer.train()
        assert all(trainer.objectives[0].to_dict()["teacher_spread"].values())

    def test_balanced_sampling_is_refused(self, tmp_path, views):
        with pytest.raises(ValueError, match="a stream comes in an order of its own"):
            make_trainer(tmp_path, views, balanced_sampling=True)

    def test_a_monitor_learns_from_every_clip_of_a_stream(self, tmp_path, data):
        teacher = make_model(seed=1)
        trainer = EntropyMonitorTrainer(
            make_monitor(teacher),
            LiveTeacher(teacher),
            make_arguments(tmp_path, EntropyMonitorArguments, per_device_eval_batch_size=5, logging_strategy="no"),
            train_dataset=data.plain_views("train"),
            eval_dataset=data.plain_views("validation"),
            data_collator=AudioVisualCollator(),
        )
        assert len(trainer.train_dataset) == 12 and len(trainer.eval_dataset) == 6


class TestData:
    def test_other_splits_have_their_order_and_the_stream_its_length(self, data):
        assert len(data.split("train")) == 12 and data.train_labels is None
        assert data.plain_views("validation")[0]["clip_id"] == "validation0"
        assert data.evaluation_split("test") == "test" and data.label_names == LABELS

    def test_without_streaming_they_are_clips_as_any(self, shards, media, processor, table):
        inputs = []
        for dataset in (table, shards, media):
            data = open_clips(DataArguments(dataset=str(dataset)), processor)
            inputs.append({row["clip_id"]: row["input_values"] for row in data.plain_views("train")})
            assert len(data.train_labels) == len(data.train_views(OFF)) == 12
        for other in inputs[1:]:
            assert other.keys() == inputs[0].keys()
            assert all(np.array_equal(other[name], values) for name, values in inputs[0].items())

    def test_views_of_media_are_those_of_their_features(self, shards, media, processor):
        first, second = (
            {view["clip_id"]: view["pixel_values"] for view in open_clips(args, processor).train_views(NO_MIXUP)}
            for args in (DataArguments(dataset=str(folder), streaming=True) for folder in (shards, media))
        )
        assert len(first) == 12 and all(np.array_equal(second[name], values) for name, values in first.items())

    def test_only_one_split(self, shards, processor):
        data = open_clips(DataArguments(dataset=str(shards)), processor, only_split="test")
        assert list(data.features) == ["test"]
        with pytest.raises(ValueError, match="no split 'dev'"):
            open_clips(DataArguments(dataset=str(shards)), processor, only_split="dev")

    def test_what_cannot_be_streamed_is_refused(self, table, processor):
        with pytest.raises(ValueError, match="only shards can be streamed"):
            open_clips(DataArguments(dataset=str(table), streaming=True), processor)
        with pytest.raises(ValueError, match="max_train_clips takes random clips"):
            DataArguments(dataset="x/y", streaming=True, max_train_clips=3)

    def test_shards_of_ones_own_are_not_published(self, shards):
        assert DataArguments(dataset=str(shards)).to_config(published=True) is None
        assert DataArguments(dataset="you/clips").to_config(published=True)["dataset"] == "you/clips"
