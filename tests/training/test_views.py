"""Views by seed, and the order of an epoch."""

import numpy as np
import torch
from tiny_runs import OFF, make_features, make_views
from torch.utils.data import DataLoader

from hf_emktd.data import AudioVisualCollator, AugmentationArguments
from hf_emktd.training import ClipSampler

AUGMENTED = AugmentationArguments(mixup_probability=0.0)


def drawn(sampler, epoch=0):
    sampler.set_epoch(epoch)
    return list(sampler)


class TestViews:
    def test_a_seed_gives_the_same_view(self):
        views = make_views(make_features(), AUGMENTED)
        first, again, other = (views[3, seed]["input_values"] for seed in (5, 5, 6))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_a_batch_is_its_clips_one_by_one(self):
        views = make_views(make_features(), AUGMENTED)
        keys = [(4, 1), (0, 2), (4, 3)]
        for view, key in zip(views.__getitems__(keys), keys, strict=True):
            assert view["clip_id"] == f"clip{key[0]}"
            np.testing.assert_array_equal(view["pixel_values"], views[key]["pixel_values"])
            np.testing.assert_array_equal(view["input_values"], views[key]["input_values"])

    def test_by_index_alone_the_seed_comes_from_torch(self):
        views = make_views(make_features(), AUGMENTED)
        torch.manual_seed(0)
        first, second = views[3]["input_values"], views[3]["input_values"]
        torch.manual_seed(0)
        np.testing.assert_array_equal(views[3]["input_values"], first)
        assert not np.array_equal(first, second)

    def test_length_and_loader(self):
        views = make_views(make_features(count=5), OFF)
        assert len(views) == 5
        batches = list(DataLoader(views, batch_size=2, collate_fn=AudioVisualCollator()))
        assert [len(batch["labels"]) for batch in batches] == [2, 2, 1]
        assert batches[0]["labels"].tolist() == [0, 1]


class TestSampler:
    def test_each_clip_once_in_an_order_of_the_epoch(self):
        sampler = ClipSampler(50, seed=3)
        assert sorted(drawn(sampler)) == list(range(50))
        assert drawn(sampler, 0) == drawn(sampler, 0) != drawn(sampler, 1)

    def test_seeds_of_runs_and_epochs_do_not_overlap(self):
        """Seed 0 in epoch 1 is not seed 1 in epoch 0, as it would be if the two were added."""
        assert drawn(ClipSampler(50, seed=0), 1) != drawn(ClipSampler(50, seed=1), 0)

    def test_independent_of_the_global_random_state(self):
        torch.manual_seed(0)
        np.random.seed(0)
        first = drawn(ClipSampler(20, seed=0, with_view_seeds=True))
        torch.manual_seed(1)
        np.random.seed(1)
        state = torch.get_rng_state()
        assert drawn(ClipSampler(20, seed=0, with_view_seeds=True)) == first
        assert torch.equal(torch.get_rng_state(), state)

    def test_every_draw_has_a_view_seed_of_its_own(self):
        keys = drawn(ClipSampler(500, seed=0, with_view_seeds=True)) + drawn(
            ClipSampler(500, seed=0, with_view_seeds=True), 1
        )
        assert len({seed for _, seed in keys}) == 1000
        assert [clip for clip, _ in keys[:500]] == drawn(ClipSampler(500, seed=0))

    def test_weights_decide_how_often_a_clip_comes(self):
        weights = np.array([1.0, 3.0, 0.0, 4.0] * 500)
        counts = np.bincount(np.array(drawn(ClipSampler(2000, seed=0, weights=weights))) % 4, minlength=4)
        assert counts[2] == 0
        # within four standard deviations of a binomial
        expected = 2000 * np.array([1, 3, 0, 4]) / 8
        assert (np.abs(counts - expected) <= 4 * np.sqrt(expected)).all()
        assert len(ClipSampler(2000, seed=0, weights=weights)) == 2000

    def test_order_is_pinned(self):
        """Golden: a run of today can be repeated after an update."""
        assert drawn(ClipSampler(6, seed=0), 2) == [5, 2, 0, 1, 4, 3]
        assert drawn(ClipSampler(6, seed=0, with_view_seeds=True), 2)[0] == (5, 1338313452027486290)


class TestSamplerOfFewViews:
    """Clips of which there are three views and no more."""

    def test_shows_every_view_once_in_as_many_epochs(self):
        sampler = ClipSampler(20, seed=3, num_views=3)
        for cycle in range(2):
            pairs = [pair for epoch in range(3 * cycle, 3 * cycle + 3) for pair in drawn(sampler, epoch)]
            assert sorted(pairs) == [(clip, view) for clip in range(20) for view in range(3)]

    def test_in_an_order_of_each_clips_own(self):
        sampler = ClipSampler(20, seed=3, num_views=3)
        by_clip = {clip: [dict(drawn(sampler, epoch))[clip] for epoch in range(6)] for clip in range(20)}
        assert len({tuple(views) for views in by_clip.values()}) > 6

    def test_depends_on_seed_and_epoch_alone(self):
        first, again = ClipSampler(20, seed=3, num_views=3), ClipSampler(20, seed=3, num_views=3)
        drawn(again, 7)
        assert drawn(first, 4) == drawn(again, 4) != drawn(ClipSampler(20, seed=4, num_views=3), 4)

    def test_a_clip_drawn_twice_shows_two(self):
        sampler = ClipSampler(30, seed=0, weights=np.eye(30)[0] + 1e-9, num_views=3)
        views = [view for clip, view in drawn(sampler) if clip == 0]
        assert all(len(set(views[start : start + 3])) == 3 for start in range(0, len(views) - 2))
