"""Inputs, labels and sizes of the golden AVSegFormer; its weights follow from their official names, `formulas.py`."""

import numpy as np
import torch

from formulas import hashed_uniform

CLIPS, FRAMES, SIDE = 2, 2, 64
# The official class with these arguments; VGGish is narrowed sixteenfold, its result stays 128 wide.
PVT_SIZES = {
    "embed_dims": [8, 16, 20, 32],
    "num_heads": [1, 2, 5, 8],
    "mlp_ratios": [8, 8, 4, 4],
    "depths": [1, 1, 2, 1],
    "sr_ratios": [8, 4, 2, 1],
}
VGGISH_REDUCTION = 16
MASK_MLP_SIZE = 48
NUM_QUERIES = 7


def formula_inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Log-mel examples `(2, 2, 96, 64)` and pictures `(2, 2, 3, 64, 64)`."""
    examples = 2 * hashed_uniform("input_values", (CLIPS, FRAMES, 96, 64)) - 1
    pictures = 2 * hashed_uniform("pixel_values", (CLIPS, FRAMES, 3, SIDE, SIDE))
    return torch.from_numpy(examples), torch.from_numpy(pictures)


def formula_labels() -> torch.Tensor:
    """A disc that moves from frame to frame, int64 `(2, 2, 64, 64)` of 0 and 1."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    discs = [(rows - 20 - 8 * shift) ** 2 + (columns - 30) ** 2 < 150 for shift in range(CLIPS * FRAMES)]
    return torch.from_numpy(np.stack(discs)).long().view(CLIPS, FRAMES, SIDE, SIDE)


def formula_mask(height: int, width: int) -> np.ndarray:
    """An ellipse, uint8 `(height, width)` of 0 and 255."""
    rows, columns = np.mgrid[0:height, 0:width]
    inside = ((rows - height / 2) / height) ** 2 + ((columns - width / 3) / width) ** 2 < 0.06
    return (255 * inside).astype(np.uint8)
