from __future__ import annotations

import numpy as np
import pytest
import tiny_runs
import torch

from hf_emktd.analysis import clip_views, pooled_tokens
from hf_emktd.analysis.clip_batches import chosen_clips


def test_mean_tokens_of_each_branch(views):
    model = tiny_runs.make_model()
    pooled = pooled_tokens(model, views, batch_size=5)
    assert {branch: value.shape for branch, value in pooled.items()} == dict.fromkeys(
        ("audio", "visual", "fusion"), (12, 16)
    )
    clip = {name: torch.from_numpy(views[7][name])[None] for name in ("input_values", "pixel_values")}
    with torch.inference_mode():
        tokens = model(**clip, output_tokens=True).fusion_tokens
    np.testing.assert_allclose(pooled["fusion"][7], tokens[0].mean(dim=0).numpy(), atol=1e-5)


def test_a_student_of_one_sense_is_given_that_alone(views):
    pooled = pooled_tokens(tiny_runs.make_model(modalities=["visual"]), views)
    assert list(pooled) == ["visual", "fusion"]


def test_a_model_without_the_contract_is_refused(views):
    model = tiny_runs.make_model()
    model.config = object()
    with pytest.raises(ValueError, match="the teacher's object has no task, "):
        pooled_tokens(model, views, role="teacher")


def test_random_clips_in_their_order():
    np.testing.assert_array_equal(chosen_clips(5, None), np.arange(5))
    np.testing.assert_array_equal(chosen_clips(5, 9), np.arange(5))
    chosen = chosen_clips(1000, 10)
    assert (np.diff(chosen) > 0).all() and chosen.max() > 100
    np.testing.assert_array_equal(chosen, chosen_clips(1000, 10))
    assert list(chosen) != list(chosen_clips(1000, 10, seed=1))


def test_teacher_and_student_see_the_same_clips(tmp_path, monkeypatch):
    import datasets

    from hf_emktd.models.cav_mae import CavMaeProcessor
    from hf_emktd.training import ClipData, DataArguments

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    processor = CavMaeProcessor.from_config(tiny_runs.make_model().config)
    small = CavMaeProcessor.from_config(tiny_runs.make_model(image_size=8, audio_length=16).config)
    data = ClipData(DataArguments(dataset=str(tiny_runs.make_table(tmp_path))), processor)
    first, second = clip_views(data, "train", 5), clip_views(data, "train", 5, small)
    assert [view["clip_id"] for view in first] == [view["clip_id"] for view in second]
    assert first[0]["pixel_values"].shape == (3, 16, 16) and second[0]["pixel_values"].shape == (3, 8, 8)
