"""From a teacher to its cache, and from the cache to a student: what users type."""

from __future__ import annotations

import json

import pytest
from script_runs import ONE_EPOCH

from hf_emktd.training.teacher_cache import TeacherCache


@pytest.fixture(scope="module")
def cache(workplace, teacher, tmp_path_factory):
    """Two views of the 40 clips, the tokens themselves."""
    folder = tmp_path_factory.mktemp("cache")
    options = ["--codec", "tokens", "--views", 2, "--shard_rows", 16]
    ended = workplace.run_here("cache_teacher.py", "--teacher", teacher, "--output_dir", folder, *options)
    assert ended.status == 0, ended.err
    return folder


def distil(workplace, teacher, folder, *options):
    return workplace.run_here("distill.py", "--teacher", teacher, "--output_dir", folder, *ONE_EPOCH, *options)


def losses(folder):
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def test_a_student_from_the_cache(workplace, teacher, cache, tmp_path):
    ended = distil(workplace, teacher, tmp_path, "--teacher_cache", cache, "--logging_steps", 1)
    assert ended.results["results"]["both"]["clips"] == 20
    assert {f"loss_{part}" for part in ("em_ktd_audio", "em_ktd_fusion", "kd")} <= set(losses(tmp_path)[0])


def test_labels_alone_take_its_views(workplace, teacher, cache, tmp_path):
    ended = distil(workplace, teacher, tmp_path, "--teacher_cache", cache, "--objective", "none")
    assert ended.status == 0, ended.err


def test_refuses_other_views_in_one_line(workplace, teacher, cache, tmp_path):
    ended = distil(workplace, teacher, tmp_path, "--teacher_cache", cache, "--mixup_probability", 0.3)
    assert ended.status == 1 and "mixup_probability is 0.0 in the cache and 0.3 here" in ended.err


def test_its_folder_tells_what_it_is(cache):
    manifest = TeacherCache(cache).manifest
    assert (manifest.num_clips, manifest.num_views, manifest.codec) == (40, 2, {"name": "tokens"})
