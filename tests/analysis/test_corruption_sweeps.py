from __future__ import annotations

import numpy as np
import pytest
import tiny_runs
import tiny_scenes

from hf_emktd.analysis import read_monitor, sound_noise_for, sweep_covers, sweep_noise
from hf_emktd.models.avsegformer import AvSegFormerProcessor
from hf_emktd.models.cav_mae import CavMaeProcessor


def test_covers_change_what_is_seen_and_nothing_heard(teacher, views):
    levels = sweep_covers(teacher, views, 0.5, shares=(0.0, 0.5, 1.0))
    assert [level.value for level in levels] == [0.0, 0.5, 1.0]
    (plain,) = read_monitor(teacher, views)
    first = levels[0]
    weights = plain.weights(0.5)
    for branch, weight in weights.items():
        assert first.weights[branch] == pytest.approx(weight.mean())
        assert first.quartiles[branch] == pytest.approx(tuple(np.quantile(weight, (0.25, 0.75))))
        assert first.entropies[branch] == pytest.approx(plain.entropies[branch].mean())
        assert first.probe_scores[branch] == plain.probe_scores[branch].mean()
    assert first.teacher_score == plain.teacher_scores.mean()
    assert len({level.weights["audio"] for level in levels}) == 1
    assert len({level.weights["visual"] for level in levels}) == 3
    low, high = levels[-1].quartiles["visual"]
    assert high - low < 1e-5  # nothing is seen any more


def test_noise_changes_what_is_heard_and_nothing_seen(teacher, views):
    noise = sound_noise_for(CavMaeProcessor.from_config(tiny_runs.make_model().config))
    levels = sweep_noise(teacher, views, 0.5, noise, snrs_db=(60.0, -30.0))
    (plain,) = read_monitor(teacher, views)
    assert levels[0].weights["audio"] == pytest.approx(plain.weights(0.5)["audio"].mean(), abs=1e-3)
    assert levels[1].weights["audio"] != pytest.approx(levels[0].weights["audio"], abs=1e-3)
    assert levels[0].weights["visual"] == levels[1].weights["visual"]


def test_levels_do_not_depend_on_the_size_of_batches(teacher, views):
    noise = sound_noise_for(CavMaeProcessor.from_config(tiny_runs.make_model().config))
    for sweep, *rest in ((sweep_covers, (0.3,)), (sweep_noise, noise, (0.0,))):
        (whole,), (parts,) = (sweep(teacher, views, 0.5, *rest, batch_size=size) for size in (64, 2))
        assert parts.weights == pytest.approx(whole.weights, rel=1e-4)
        assert parts.teacher_score == whole.teacher_score


def test_masks_too(mask_teacher, mask_views):
    noise = sound_noise_for(AvSegFormerProcessor.from_config(tiny_scenes.make_config()))
    heard = sweep_noise(mask_teacher, mask_views, 1.0, noise, snrs_db=(60.0, -30.0))
    seen = sweep_covers(mask_teacher, mask_views, 1.0, shares=(0.0, 1.0))
    assert heard[0].weights["audio"] != heard[1].weights["audio"]
    assert seen[0].weights["visual"] != seen[1].weights["visual"]
    assert seen[0].weights["audio"] == seen[1].weights["audio"]
    assert all(0 <= level.teacher_score <= 1 for level in heard + seen)
