"""A teacher's signals, written once and read in every epoch."""

from __future__ import annotations

import shutil
from dataclasses import replace

import datasets
import numpy as np
import pytest
import tiny_scenes
import torch
from tiny_runs import OFF, logged, make_arguments, make_model, make_monitor, make_teacher, make_trainer

from hf_emktd.data import AudioVisualCollator, AugmentationArguments
from hf_emktd.distillation import (
    ClipRelationDistillation,
    EntropyMonitoredClipRelations,
    LiveTeacher,
    LogitDistillation,
    MultiStageFeatures,
)
from hf_emktd.distillation.token_codes import PlainTokens, TokenRelations, cosine_errors
from hf_emktd.models.cav_mae import CavMaeProcessor
from hf_emktd.training import ClipData, DataArguments, build_objectives
from hf_emktd.training.cached_views import CachedViews, SignalCollator
from hf_emktd.training.teacher_cache import MANIFEST_NAME, SHARDS_FOLDER, TeacherCache, cache_source
from hf_emktd.training.teacher_cache_writer import estimate_cache, plan_cache, verify_cache, write_teacher_cache

AUGMENTED = AugmentationArguments(mixup_probability=0.5)
VIEWS = 3


def source_of(data, live, views):
    return cache_source(live.model, live.monitor, data.processor, data, views)


def write(folder, data, codec, live=None, augmentation=AUGMENTED, num_views=VIEWS, **options):
    """A cache of 12 clips in shards of 5."""
    live = make_teacher() if live is None else live
    views = data.train_views(augmentation)
    options = {"batch_size": 4, "shard_rows": 5} | options
    plan = plan_cache(live, views, source_of(data, live, views), codec, num_views=num_views, **options)
    write_teacher_cache(folder, plan, live, views)
    return TeacherCache(folder)


@pytest.fixture(scope="module")
def data(table, cache):
    """Opened once for all tests here; that it is opened as any other is not their point."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        return ClipData(DataArguments(dataset=str(table)), CavMaeProcessor.from_config(make_model().config))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """By name of the codec the folder of its cache, each written once."""
    return {name: tmp_path_factory.mktemp(name) for name in ("relations", "tokens")}


@pytest.fixture(params=["relations", "tokens"])
def either(request, written, data):
    codec = {"relations": TokenRelations(), "tokens": PlainTokens()}[request.param]
    return write(written[request.param], data, codec)


@pytest.fixture
def plain(written, data):
    return write(written["tokens"], data, PlainTokens())


def cached_trainer(folder, cache, data, with_signals=True, **options):
    views = CachedViews(data.train_views(AUGMENTED), cache, with_signals)
    if not with_signals:
        return make_trainer(folder, views=views, **options)
    args = make_arguments(folder, **options)
    teacher = cache.teacher(make_teacher().config)
    student = make_model()
    objectives = build_objectives(args, student.config, teacher.config)
    trainer = make_trainer(folder, student=student, teacher=teacher, views=views, objectives=objectives, **options)
    trainer.data_collator = SignalCollator()
    return trainer


class TestReading:
    def test_the_signal_of_a_view_is_the_live_one(self, either, data):
        live, views = make_teacher(), data.train_views(AUGMENTED)
        cached = CachedViews(views, either)
        keys = [(clip, view) for clip in range(12) for view in range(VIEWS)]
        batch = SignalCollator()([cached[key] for key in keys])
        signal = either.teacher(live.config)(**batch)
        seeds = either.view_seeds(*zip(*keys, strict=True))
        same = AudioVisualCollator()([views[clip, seed] for (clip, _), seed in zip(keys, seeds, strict=True)])
        expected = live(**same)
        assert torch.equal(batch["input_values"], same["input_values"])
        torch.testing.assert_close(signal.logits, expected.logits, rtol=1e-3, atol=1e-3)
        assert signal.grids == expected.grids
        for branch, tokens in expected.tokens.items():
            assert cosine_errors(tokens, signal.tokens[branch])[1].max() <= 0.01
            torch.testing.assert_close(signal.entropies[branch], expected.entropies[branch])

    def test_each_view_is_another(self, plain):
        seeds = plain.view_seeds([0] * VIEWS + [1] * VIEWS, [*range(VIEWS)] * 2)
        assert len(set(seeds)) == 2 * VIEWS

    def test_datasets_reads_it(self, plain):
        rows = datasets.load_dataset("parquet", data_files=f"{plain.folder}/{SHARDS_FOLDER}/*.parquet", split="train")
        assert len(rows) == 12 * VIEWS and rows[0]["clip_id"] and len(rows[0]["logits"]) == 3
        assert np.frombuffer(rows[0]["audio_tokens"], np.float16).size == 16 * 16
        streamed = datasets.load_dataset(
            "parquet", data_files=f"{plain.folder}/{SHARDS_FOLDER}/*.parquet", split="train", streaming=True
        )
        assert next(iter(streamed)) == rows[0]


class TestTraining:
    def test_follows_the_live_run(self, plain, data, tmp_path):
        options = {"max_steps": 6, "per_device_train_batch_size": 4}
        live = cached_trainer(tmp_path / "live", plain, data, with_signals=False, **options)
        cached = cached_trainer(tmp_path / "cached", plain, data, **options)
        for trainer in (live, cached):
            trainer.train()
        for expected, line in zip(logged(live), logged(cached), strict=True):
            assert line.keys() == expected.keys()
            for name in expected:
                assert line[name] == pytest.approx(expected[name], rel=2e-3, abs=1e-5), name

    def test_calibrates_on_cached_views(self, plain, data, tmp_path):
        trainer = cached_trainer(tmp_path, plain, data, ktd_scale="teacher_spread", max_steps=1)
        trainer.train()
        assert trainer.objectives[0].teacher_spread.isfinite().all()


def files_of(folder):
    return {path.name: path.read_bytes() for path in [*(folder / SHARDS_FOLDER).iterdir(), folder / MANIFEST_NAME]}


class TestWriting:
    def test_a_second_call_has_nothing_to_do(self, plain, data):
        before = {path: path.stat().st_mtime_ns for path in (plain.folder / SHARDS_FOLDER).iterdir()}
        write(plain.folder, data, PlainTokens())
        assert {path: path.stat().st_mtime_ns for path in (plain.folder / SHARDS_FOLDER).iterdir()} == before

    def test_goes_on_where_it_was_stopped(self, plain, data, tmp_path):
        """Stopped in the third shard: two lie there whole, of the third what was written so far."""
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, data, PlainTokens(), live=Stopping(after=5))
        shards = sorted((tmp_path / SHARDS_FOLDER).glob("view*"))
        assert len(shards) == 2
        (tmp_path / SHARDS_FOLDER / f".{shards[0].name}.123").write_bytes(b"half of it")
        with pytest.raises(ValueError, match="is not finished"):
            TeacherCache(tmp_path)
        write(tmp_path, data, PlainTokens())
        assert files_of(tmp_path) == files_of(plain.folder)

    def test_views_can_be_added(self, plain, data, tmp_path):
        write(tmp_path, data, PlainTokens(), num_views=1)
        write(tmp_path, data, PlainTokens(), num_views=VIEWS)
        assert files_of(tmp_path) == files_of(plain.folder)
        with pytest.raises(ValueError, match="not taken away"):
            write(tmp_path, data, PlainTokens(), num_views=1)

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"codec": TokenRelations()}, "codec.name is tokens in the cache and relations here"),
            ({"seed": 1}, "seed is 0"),
            ({"augmentation": OFF}, "source.views.augmentation.noise"),
        ],
    )
    def test_leaves_another_cache_alone(self, plain, data, options, named):
        with pytest.raises(ValueError, match=f"another teacher cache: .*{named}"):
            write(plain.folder, data, **({"codec": PlainTokens()} | options))

    def test_says_how_far_codes_deviate(self, written, data):
        cache = write(written["relations"], data, TokenRelations())
        largest = max(note["errors"]["fusion"]["rms_error"] for note in cache.manifest.shards.values())
        rows = cache.rows.with_format(None)
        assert largest == pytest.approx(max(rows["fusion_rms_error"])) and 0 < largest <= 0.01
        assert max(rows["fusion_max_error"]) > largest


class Stopping(LiveTeacher):
    """Interrupted in the middle."""

    def __init__(self, after):
        model = make_model(seed=1)
        super().__init__(model, make_monitor(model))
        self.left = after

    def forward(self, **inputs):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().forward(**inputs)


class TestRefusals:
    def test_a_damaged_shard_by_its_name(self, plain, data, tmp_path):
        shutil.copytree(plain.folder, tmp_path, dirs_exist_ok=True)
        shard = sorted((tmp_path / SHARDS_FOLDER).iterdir())[1]
        content = bytearray(shard.read_bytes())
        content[100] ^= 1
        shard.write_bytes(content)
        with pytest.raises(ValueError, match=f"1 of 9 shards .* damaged: {shard.name}"):
            TeacherCache(tmp_path)
        shard.unlink()
        with pytest.raises(ValueError, match=f"1 of 9 shards .* damaged: {shard.name}"):
            TeacherCache(tmp_path)
        write(tmp_path, data, PlainTokens())
        assert files_of(tmp_path) == files_of(plain.folder)

    def test_another_teacher(self, plain, data):
        other = LiveTeacher(make_model(seed=2))
        with pytest.raises(ValueError, match=r"teacher is .* in the cache and .* here"):
            plain.check_source(source_of(data, other, data.train_views(AUGMENTED)))

    def test_another_monitor_but_not_the_lack_of_one(self, plain, data):
        live, views = make_teacher(), data.train_views(AUGMENTED)
        plain.check_source(source_of(data, LiveTeacher(live.model), views))
        torch.nn.init.zeros_(next(live.monitor.parameters()))
        with pytest.raises(ValueError, match=r"monitor is .* in the cache"):
            plain.check_source(source_of(data, live, views))

    def test_other_views(self, plain, data):
        other = AugmentationArguments(mixup_probability=0.1)
        with pytest.raises(ValueError, match=r"views.augmentation.mixup_probability is 0.5 in the cache and 0.1 here"):
            plain.check_source(source_of(data, make_teacher(), data.train_views(other)))

    def test_a_student_whose_noise_is_another(self, plain, data, processor):
        processor.feature_extractor.std *= 2
        with pytest.raises(ValueError, match=r"views\.student_hears.std"):
            plain.check_source(source_of(data, make_teacher(), data.train_views(AUGMENTED, processor)))

    def test_other_clips(self, plain, table, processor):
        data = ClipData(DataArguments(dataset=str(table), max_train_clips=11), processor)
        with pytest.raises(ValueError, match=r"data\.training_clips"):
            plain.check_source(source_of(data, make_teacher(), data.train_views(AUGMENTED)))

    def test_a_folder_without_a_cache(self, tmp_path):
        with pytest.raises(ValueError, match="is no teacher cache"):
            TeacherCache(tmp_path)


def test_masks_are_kept_but_no_stages(tmp_path):
    model = tiny_scenes.make_model(seed=1)
    live = LiveTeacher(model, tiny_scenes.make_monitor(model))
    views = tiny_scenes.make_views(tiny_scenes.make_features(4), flip_probability=0.5, silence_probability=0.5)
    source = {"monitor": "its own"}
    write_teacher_cache(tmp_path, plan_cache(live, views, source, PlainTokens(), num_views=2), live, views)
    cache = TeacherCache(tmp_path)
    teacher, pairs = cache.teacher(model.config), [(clip, clip % 2) for clip in range(4)]
    batch = SignalCollator()([CachedViews(views, cache)[pair] for pair in pairs])
    signal, expected = teacher(**batch), live(**batch)
    torch.testing.assert_close(signal.logits, expected.logits, rtol=1e-3, atol=1e-3)
    for branch, tokens in expected.tokens.items():
        torch.testing.assert_close(signal.tokens[branch], tokens, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r"transkd reads the stages .* which are not cached"):
        teacher.check_serves([MultiStageFeatures.for_models(model.config, model.config)])


class TestVerifying:
    def test_what_was_stored_is_what_the_teacher_says(self, either, data):
        assert verify_cache(either, make_teacher(), data.train_views(AUGMENTED), 9) == []

    def test_what_another_teacher_says_is_not(self, plain, data):
        wrong = verify_cache(plain, LiveTeacher(make_model(seed=4)), data.train_views(AUGMENTED), 3)
        assert len(wrong) == 3 and "answers deviate by" in wrong[0]


def test_what_it_will_take_is_near_what_it_took(written, data):
    cache = write(written["relations"], data, TokenRelations())
    live, views = make_teacher(), data.train_views(AUGMENTED)
    estimate = estimate_cache(replace(cache.manifest, batch_size=12), live, views)
    # a file of few rows is mostly its own description
    assert estimate.row_seconds > 0 and 0.2 < estimate.row_bytes / (cache.manifest.num_bytes / 36) < 2
    assert max(estimate.errors.values()) <= 0.01


def test_relations_between_clips_are_those_of_the_live_teacher(written, data):
    """Their means are in one basis for all clips, whatever became of the tokens."""
    cache, live = write(written["relations"], data, TokenRelations()), make_teacher()
    views = CachedViews(data.train_views(AUGMENTED), cache)
    batch = SignalCollator()([views[clip, clip % VIEWS] for clip in range(6)])
    student = make_model(seed=5)
    output = student(batch["input_values"], batch["pixel_values"], output_tokens=True)
    objective = EntropyMonitoredClipRelations.for_models(student.config, live.config)
    objective.calibrate([live(**batch)])
    cached, expected = (objective(output, teacher(**batch)) for teacher in (cache.teacher(live.config), live))
    assert list(cached) == ["em_clip_ktd_audio", "em_clip_ktd_visual", "em_clip_ktd_fusion"]
    for name, part in expected.items():
        torch.testing.assert_close(cached[name], part, rtol=0.01, atol=0)


class TestTrainerRefuses:
    def test_objectives_that_codes_cannot_serve(self, written, data, tmp_path):
        cache = write(written["relations"], data, TokenRelations())
        with pytest.raises(ValueError, match=r"vkd reads the teacher's tokens.* --codec tokens"):
            cached_trainer(tmp_path, cache, data, objective=["em_ktd", "vkd"])

    def test_clips_related_place_by_place_from_relations(self, written, data):
        cache, config = write(written["relations"], data, TokenRelations()), make_teacher().config
        cached = cache.teacher(config)
        cached.check_serves([ClipRelationDistillation.for_models(config, config)])
        with pytest.raises(ValueError, match=r"clip_ktd reads the teacher's tokens.* --codec tokens"):
            cached.check_serves([ClipRelationDistillation.for_models(config, config, pooling="flatten")])

    def test_entropies_that_were_not_stored(self, data, tmp_path):
        cache = write(tmp_path / "cache", data, PlainTokens(), LiveTeacher(make_model(seed=1)), num_views=1)
        with pytest.raises(ValueError, match="em_ktd needs branch entropies, and the teacher cache was"):
            cached_trainer(tmp_path, cache, data)

    def test_views_without_signals(self, plain, data, tmp_path):
        teacher = plain.teacher(make_teacher().config)
        objectives = [LogitDistillation()]
        for views in (data.train_views(AUGMENTED), CachedViews(data.train_views(AUGMENTED), plain, False)):
            with pytest.raises(ValueError, match="pass CachedViews"):
                make_trainer(tmp_path, teacher=teacher, views=views, objectives=objectives)
        with pytest.raises(ValueError, match="has no teacher_signal"):
            teacher(labels=torch.zeros(2))
