"""
Weights and inputs that follow from a formula, so that golden numbers need no stored tensors.

Everything rests on an integer hash, which is exact on every machine.
"""

import zlib

import numpy as np
import torch

MASK = np.uint64(0xFFFFFFFF)


def hashed_uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 numbers in [-1, 1) that look random and depend on `name` and position only."""
    x = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()))
    for _ in range(3):
        x = ((x ^ (x >> np.uint64(16))) * np.uint64(0x45D9F3B)) & MASK
    x ^= x >> np.uint64(16)
    return (x / 2**31 - 1).astype(np.float32).reshape(shape)


def formula_tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A weight of a size that keeps activations near one; `name` is the official one, without `module.`."""
    values = hashed_uniform(name, shape)
    if name.endswith("weight") and len(shape) == 1:
        values = 1 + values / 2
    elif name.endswith("weight"):
        values = values * np.sqrt(3 / np.prod(shape[1:]))
    else:
        values = values / 2
    return torch.from_numpy(values.astype(np.float32))


def formula_waveform(samples: int, sampling_rate: int = 16000) -> np.ndarray:
    """A rising tone over hashed noise, with an offset that the mean removal must take away; float32 `(samples,)`."""
    seconds = np.arange(samples) / sampling_rate
    tone = 0.3 * np.sin(2 * np.pi * (300 * seconds + 400 * seconds**2))
    return (0.1 + tone + 0.02 * hashed_uniform("waveform", (samples,))).astype(np.float32)


def formula_picture(height: int, width: int) -> np.ndarray:
    """A colour gradient with hashed texture, uint8 `(height, width, 3)`."""
    rows, columns = np.mgrid[0:height, 0:width]
    gradient = np.stack([rows * 5, columns * 3, rows + columns], axis=2) % 200
    texture = (hashed_uniform("picture", (height, width, 3)) + 1) * 27
    return (gradient + texture).astype(np.uint8)
