"""Sounds and pictures of which every window differs, for the tests of the pipelines."""

import numpy as np

RATE, SECONDS = 16000, 0.32  # what the tiny model hears


def pictures(seconds: float, rate: int = 25) -> np.ndarray:
    """Frames that grow lighter, so that each gives another answer."""
    count = round(rate * seconds)
    shades = np.linspace(0, 255, count).astype(np.uint8)
    return np.broadcast_to(shades[:, None, None, None], (count, 32, 48, 3)).copy()


def tone(seconds: float, level: float = 0.3) -> np.ndarray:
    """It rises, so that each window sounds otherwise."""
    times = np.arange(round(RATE * seconds)) / RATE
    return (level * np.sin(2 * np.pi * (300 + 400 * times) * times)).astype(np.float32)
