"""Clips made harder by a known amount: the picture covered, the sound drowned in noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor
from transformers import ProcessorMixin

from ..models.avsegformer import AvSegFormerProcessor
from ..models.avsegformer.configuration_avsegformer import EXAMPLE_FRAMES
from ..models.avsegformer.processing_avsegformer import LOG_OFFSET, SHIFT_SAMPLES, WINDOW_SAMPLES
from ..models.cav_mae import CavMaeProcessor
from ..models.cav_mae.processing_cav_mae import SHIFT_SECONDS, WINDOW_SECONDS

# Powers below are digital silence.
SMALLEST = torch.finfo(torch.float32).tiny


def cover_pictures(pixel_values: Tensor, share: float, seed: int = 0, first_clip: int = 0) -> Tensor:
    """
    Normalised pictures `(batch, ..., 3, height, width)` with a rectangle of the picture's shape at a random place, the
    same in all frames of a clip, set to 0, the mean colour.

    Args:
        share: of the picture that is covered, up to rounding of the rectangle's sides: 0 nothing, 1 all.
        first_clip: position in its split of the batch's first clip; with `seed` it decides the places.

    Raises:
        ValueError: if `share` is not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the covered share of a picture must lie between 0 and 1, got {share}.")
    covered = pixel_values.clone()
    sides = [round(math.sqrt(share) * side) for side in pixel_values.shape[-2:]]
    for clip, generator in zip(covered, _generators(seed, first_clip, len(covered)), strict=True):
        top, left = (
            int(torch.randint(whole - side + 1, (), generator=generator))
            for whole, side in zip(clip.shape[-2:], sides, strict=True)
        )
        clip[..., top : top + sides[0], left : left + sides[1]] = 0
    return covered


class SoundNoise(ABC):
    """
    Adds white noise to sounds that are spectrograms already, as one of a model's processor. Powers add, the
    expectation over the phases that a spectrogram has lost; the noise is that of a waveform, through the same
    extractor. The ratio is that of the mean powers of a clip's mel bands.

    Args:
        processor: of the model.
    """

    def __init__(self, processor: ProcessorMixin) -> None:
        self.extractor = processor.feature_extractor

    def add(self, input_values: Tensor, snr_db: float, seed: int = 0, first_clip: int = 0) -> Tensor:
        """
        Inputs of a batch `(batch, ...)` with noise.

        Args:
            snr_db: power of the clip over that of the noise in decibels, infinity for none.
            first_clip: position in its split of the batch's first clip; with `seed` it decides the noise.
        """
        generators = _generators(seed, first_clip, len(input_values))
        sounding = self.sounding(input_values)
        power = self.to_power(input_values) * sounding
        noise = torch.stack(list(map(self.noise_power, generators))).to(input_values.device) * sounding
        axes = tuple(range(1, input_values.ndim))
        level = power.sum(axes, keepdim=True) / noise.sum(axes, keepdim=True).clamp_min(SMALLEST)
        drowned = self.from_power(power + level * 10 ** (-snr_db / 10) * noise)
        return torch.where(sounding, drowned, input_values)

    @abstractmethod
    def to_power(self, input_values: Tensor) -> Tensor:
        """Power of each mel band."""

    @abstractmethod
    def from_power(self, power: Tensor) -> Tensor:
        """The input whose bands have this power."""

    @abstractmethod
    def noise_power(self, generator: torch.Generator) -> Tensor:
        """Powers of white noise of one clip's length and any level."""

    def sounding(self, input_values: Tensor) -> Tensor:
        """Where there is sound and not padding: bool, of the inputs' shape."""
        return torch.ones_like(input_values, dtype=torch.bool)


class CavMaeSoundNoise(SoundNoise):
    """Normalised logarithms of mel powers, padded at the end."""

    def to_power(self, input_values: Tensor) -> Tensor:
        return (input_values * self.extractor.std + self.extractor.mean).exp()

    def from_power(self, power: Tensor) -> Tensor:
        return (power.clamp_min(SMALLEST).log() - self.extractor.mean) / self.extractor.std

    def noise_power(self, generator: torch.Generator) -> Tensor:
        seconds = WINDOW_SECONDS + (self.extractor.audio_length - 1) * SHIFT_SECONDS
        waveform = torch.randn(round(seconds * self.extractor.sampling_rate), generator=generator)
        return torch.from_numpy(self.extractor.extract_fbank(waveform, self.extractor.sampling_rate)).exp()

    def sounding(self, input_values: Tensor) -> Tensor:
        padding = (self.extractor.padding_value - self.extractor.mean) / self.extractor.std
        silent = torch.isclose(input_values, torch.full_like(input_values, padding)).all(dim=-1, keepdim=True)
        return (~silent).expand_as(input_values)


class AvSegFormerSoundNoise(SoundNoise):
    """Logarithms of mel magnitudes plus an offset."""

    def to_power(self, input_values: Tensor) -> Tensor:
        return (input_values.exp() - LOG_OFFSET).clamp_min(0) ** 2

    def from_power(self, power: Tensor) -> Tensor:
        return (power.sqrt() + LOG_OFFSET).log()

    def noise_power(self, generator: torch.Generator) -> Tensor:
        frames = EXAMPLE_FRAMES * self.extractor.num_frames
        waveform = torch.randn(WINDOW_SAMPLES + (frames - 1) * SHIFT_SAMPLES, generator=generator)
        log_mel = self.extractor.log_mel(waveform, self.extractor.sampling_rate)
        return self.to_power(torch.from_numpy(log_mel))


SOUND_NOISES: dict[type, type[SoundNoise]] = {
    CavMaeProcessor: CavMaeSoundNoise,
    AvSegFormerProcessor: AvSegFormerSoundNoise,
}


def sound_noise_for(processor: ProcessorMixin) -> SoundNoise:
    """
    Raises:
        ValueError: for a processor whose spectrograms are not known.
    """
    if type(processor) not in SOUND_NOISES:
        known = ", ".join(kind.__name__ for kind in SOUND_NOISES)
        raise ValueError(f"no noise for the sound of {type(processor).__name__}; known are {known}.")
    return SOUND_NOISES[type(processor)](processor)


def _generators(seed: int, first_clip: int, clips: int) -> list[torch.Generator]:
    """One for each clip, so that what is done to it does not depend on the batch it is in."""
    positions = range(first_clip, first_clip + clips)
    seeds = (np.random.SeedSequence((seed, position)).generate_state(1).item() for position in positions)
    return [torch.Generator().manual_seed(each) for each in seeds]
