from __future__ import annotations

import numpy as np
import pytest
import tiny_runs
import tiny_scenes
import torch

from hf_emktd.analysis import cover_pictures, sound_noise_for
from hf_emktd.analysis.corruptions import AvSegFormerSoundNoise, CavMaeSoundNoise
from hf_emktd.models.avsegformer import AvSegFormerProcessor
from hf_emktd.models.cav_mae import CavMaeProcessor

SECONDS = 0.025 + 31 * 0.010  # 32 frames


@pytest.fixture
def processor():
    return CavMaeProcessor.from_config(tiny_runs.make_model().config)


@pytest.fixture
def mask_processor():
    return AvSegFormerProcessor.from_config(tiny_scenes.make_config())


def waveform(seed=0, seconds=SECONDS):
    """A tone and a little noise."""
    time = np.arange(round(16000 * seconds)) / 16000
    random = np.random.default_rng(seed)
    return (0.3 * np.sin(2 * np.pi * 800 * time) + 0.03 * random.standard_normal(len(time))).astype(np.float32)


def inputs(processor, *waveforms):
    return processor.feature_extractor(list(waveforms), sampling_rate=16000, return_tensors="pt")["input_values"]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_so_much_is_covered_as_asked(share):
    pictures = torch.ones(3, 3, 20, 40)
    covered = cover_pictures(pictures, share)
    assert (covered == 0).float().mean().item() == pytest.approx(share, abs=0.03)
    assert torch.equal(pictures, torch.ones(3, 3, 20, 40))
    assert torch.equal(covered, cover_pictures(pictures, share))


def test_covers_are_rectangles_at_places_of_their_own():
    covered = cover_pictures(torch.ones(8, 3, 20, 20), 0.25) == 0
    assert (covered.sum(dim=(1, 2, 3)) == 3 * 10 * 10).all()
    assert len({tuple(clip[0].nonzero()[0].tolist()) for clip in covered}) > 1


def test_covers_do_not_depend_on_the_batch():
    pictures = torch.ones(6, 3, 20, 20)
    parts = [cover_pictures(pictures[start : start + 2], 0.25, first_clip=start) for start in (0, 2, 4)]
    assert torch.equal(cover_pictures(pictures, 0.25), torch.cat(parts))
    assert not torch.equal(cover_pictures(pictures, 0.25), cover_pictures(pictures, 0.25, seed=1))


def test_a_cover_stays_in_its_place_through_a_clip():
    covered = cover_pictures(torch.ones(2, 5, 3, 16, 16), 0.3)
    assert torch.equal(covered, covered[:, :1].expand_as(covered))


def test_shares_outside_are_refused():
    with pytest.raises(ValueError, match=r"must lie between 0 and 1, got 1.5"):
        cover_pictures(torch.ones(1, 3, 4, 4), 1.5)


@pytest.mark.parametrize("kind", ["processor", "mask_processor"])
def test_without_noise_nothing_changes(kind, request):
    processor = request.getfixturevalue(kind)
    clips = inputs(processor, waveform(), waveform(1))
    torch.testing.assert_close(sound_noise_for(processor).add(clips, float("inf")), clips, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("snr_db", [20.0, 0.0, -20.0])
@pytest.mark.parametrize("kind", ["processor", "mask_processor"])
def test_the_ratio_is_that_of_the_powers(kind, snr_db, request):
    processor = request.getfixturevalue(kind)
    noise = sound_noise_for(processor)
    clips = inputs(processor, waveform(seconds=2), waveform(1, seconds=2))
    power, whole = noise.to_power(clips), noise.to_power(noise.add(clips, snr_db))
    axes = tuple(range(1, clips.ndim))
    ratio = 10 * torch.log10(power.sum(axes) / (whole - power).sum(axes))
    torch.testing.assert_close(ratio, torch.full((2,), snr_db), atol=0.2, rtol=0)


def test_as_noise_added_to_the_waveform(processor):
    """The same clip drowned before and after the extractor, at a ratio measured in mel bands."""
    clip = waveform()
    white = np.random.default_rng(5).standard_normal(len(clip)).astype(np.float32)
    noise = sound_noise_for(processor)
    powers = [noise.to_power(inputs(processor, one)).sum() for one in (clip, white)]
    level = float(torch.sqrt(powers[0] / powers[1]))  # 0 dB
    truly = inputs(processor, clip + level * white)
    ours = noise.add(inputs(processor, clip), 0.0)
    # two draws of white noise: equal on average over the frames
    torch.testing.assert_close(ours.mean(dim=1), truly.mean(dim=1), atol=0.3, rtol=0)
    assert (truly - inputs(processor, clip)).mean() > 0.2  # of the deviation of all sounds, 4.5 nats


def test_padding_stays_padding(processor):
    clips = inputs(processor, waveform(seconds=0.2))
    padded = clips[0, -1]
    drowned = sound_noise_for(processor).add(clips, -20.0)
    assert torch.equal(drowned[0, 18:], padded.expand(14, -1)) and not torch.equal(drowned[0, :18], clips[0, :18])


def test_a_louder_clip_gets_louder_noise(processor):
    noise = sound_noise_for(processor)
    clips = inputs(processor, waveform(), 0.01 * waveform())
    drowned = noise.add(clips, -10.0)
    difference = (drowned[0] - drowned[1]) * processor.feature_extractor.std
    assert difference.mean().item() == pytest.approx(np.log(1e4), rel=0.1)


def test_each_kind_of_spectrogram_has_its_own(processor, mask_processor):
    assert type(sound_noise_for(processor)) is CavMaeSoundNoise
    assert type(sound_noise_for(mask_processor)) is AvSegFormerSoundNoise
    with pytest.raises(ValueError, match="no noise for the sound of object; known are CavMaeProcessor, AvSeg"):
        sound_noise_for(object())
