"""From waveforms to what a model hears, as a graph of its own: one convolution, one product, one logarithm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn
from torch.export import Dim

from ..models.avsegformer import AvSegFormerFeatureExtractor
from ..models.avsegformer import processing_avsegformer as vggish
from ..models.cav_mae import CavMaeFeatureExtractor
from ..models.cav_mae.processing_cav_mae import SHIFT_SECONDS, WINDOW_SECONDS
from .formats import OPSET, quietly, require, strip_traces

if TYPE_CHECKING:
    from transformers import SequenceFeatureExtractor

# Kaldi's defaults, which the official CAV-MAE code keeps.
PREEMPHASIS = 0.97
LOWEST_HERTZ = 20.0
FFT_SAMPLES = 512


class LogMelGraph(nn.Module):
    """
    Log-mel energies of a waveform. Everything up to the spectrum is linear in a window's samples, so it is one
    convolution, whose kernels are the rows of the real and the imaginary part.

    Args:
        windowing (`np.ndarray` of shape `(window, window)`, float64): What is done to a window's samples, as a matrix.
        mel (`np.ndarray` of shape `(257, mel)`): Weights of the bins of a 512-point spectrum.
        shift (`int`): Samples from one window to the next.
    """

    def __init__(self, windowing: np.ndarray, mel: np.ndarray, shift: int) -> None:
        super().__init__()
        samples = len(windowing)
        angles = 2 * np.pi / FFT_SAMPLES * np.outer(np.arange(FFT_SAMPLES // 2 + 1), np.arange(samples))
        kernel = np.concatenate([np.cos(angles), -np.sin(angles)]) @ windowing
        self.register_buffer("kernel", torch.tensor(kernel[:, None], dtype=torch.float32))
        self.register_buffer("mel", torch.tensor(mel, dtype=torch.float32))
        self.shift = shift

    def power(self, waveform: Tensor) -> Tensor:
        """Power spectra `(1, windows, 257)` of `(1, samples)`."""
        spectrum = nn.functional.conv1d(waveform.unsqueeze(1), self.kernel, stride=self.shift)
        real, imaginary = spectrum.chunk(2, dim=1)
        return (real.square() + imaginary.square()).transpose(1, 2)


class CavMaeSoundGraph(LogMelGraph):
    """
    [`CavMaeFeatureExtractor`] as a graph: `(1, samples)` float32, mono at its sampling rate and at least 25 ms long,
    to `input_values` `(1, audio_length, num_mel_bins)`.

    As Kaldi: each window loses its mean, each sample 0.97 times the one before it, a symmetric Hann window follows;
    energies below 1.2e-7 are raised to it.
    """

    def __init__(self, extractor: CavMaeFeatureExtractor) -> None:
        window, shift = (int(seconds * extractor.sampling_rate) for seconds in (WINDOW_SECONDS, SHIFT_SECONDS))
        centring = np.eye(window) - 1 / window
        preemphasis = np.eye(window) - PREEMPHASIS * np.eye(window, k=-1)
        preemphasis[0, 0] -= PREEMPHASIS  # the first sample stands for the one before it
        hann = torch.hann_window(window, periodic=False, dtype=torch.float64).numpy()
        super().__init__(hann[:, None] * preemphasis @ centring, _kaldi_mel(extractor), shift)
        self.length = extractor.audio_length
        self.mean, self.std = extractor.mean, extractor.std
        padding = torch.full((1, extractor.audio_length, extractor.num_mel_bins), float(extractor.padding_value))
        self.register_buffer("padding", padding)

    def forward(self, waveform: Tensor) -> Tensor:
        energies = self.power(waveform - waveform.mean(dim=1, keepdim=True)) @ self.mel
        fbank = energies.clamp(min=torch.finfo(torch.float32).eps).log()
        return (torch.cat([fbank, self.padding], dim=1)[:, : self.length] - self.mean) / self.std


class AvSegFormerSoundGraph(LogMelGraph):
    """
    [`AvSegFormerFeatureExtractor`] as a graph: `(1, samples)` float32, mono at 16 kHz and at least 15,600 long, to
    `input_values` `(1, examples, 96, 64)`, all whole examples: take the first ones, repeat the last.
    """

    def __init__(self) -> None:
        positions = np.arange(vggish.WINDOW_SAMPLES)
        hann = 0.5 - 0.5 * np.cos(2 * np.pi / vggish.WINDOW_SAMPLES * positions)
        super().__init__(np.diag(hann), vggish.mel_matrix(), vggish.SHIFT_SAMPLES)

    def forward(self, waveform: Tensor) -> Tensor:
        log_mel = (self.power(waveform).sqrt() @ self.mel + vggish.LOG_OFFSET).log()
        examples = log_mel.shape[1] // vggish.EXAMPLE_FRAMES
        whole = log_mel[:, : examples * vggish.EXAMPLE_FRAMES]
        return whole.reshape(1, examples, vggish.EXAMPLE_FRAMES, vggish.MEL_BANDS)


def sound_graph(extractor: SequenceFeatureExtractor) -> tuple[LogMelGraph, int] | None:
    """The graph of a feature extractor and the samples that it needs at least; `None` of one it has none for."""
    if isinstance(extractor, CavMaeFeatureExtractor):
        return CavMaeSoundGraph(extractor), int(WINDOW_SECONDS * extractor.sampling_rate)
    if isinstance(extractor, AvSegFormerFeatureExtractor):
        return AvSegFormerSoundGraph(), vggish.WINDOW_SAMPLES + (vggish.EXAMPLE_FRAMES - 1) * vggish.SHIFT_SAMPLES
    return None


def write_sound_graph(graph: LogMelGraph, shortest: int, path: Path) -> None:
    """
    An ONNX file with `waveform` `(1, samples)` in and `input_values` out, for any number of samples from `shortest`.

    Raises:
        ExportError: onnx or onnxscript is missing.
    """
    require("onnxscript", "onnx")
    with quietly():
        torch.onnx.export(
            graph.eval(),
            (torch.zeros(1, 2 * shortest + 1),),
            path,
            dynamo=True,
            opset_version=OPSET,
            input_names=["waveform"],
            output_names=["input_values"],
            dynamic_shapes=({1: Dim("samples", min=shortest)},),
            external_data=False,
            verbose=False,
        )
    strip_traces(path)


def _kaldi_mel(extractor: CavMaeFeatureExtractor) -> np.ndarray:
    """Kaldi's mel filters as `(257, mel)`; none has the highest bin."""
    rate = float(extractor.sampling_rate)
    filters, _ = torchaudio.compliance.kaldi.get_mel_banks(
        extractor.num_mel_bins, FFT_SAMPLES, rate, LOWEST_HERTZ, 0.0, 100.0, -500.0, 1.0
    )
    return np.pad(filters.double().numpy(), ((0, 0), (0, 1))).T
