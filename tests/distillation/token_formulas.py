"""Tokens from formulas, for the golden numbers of official losses and for the tests."""

import torch

from formulas import hashed_uniform

CLIPS = 5
GRID = (3, 4)
WIDTHS = {"student": 6, "teacher": 9}


def formula_tokens(role: str, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """
    `(CLIPS, 12, width)` of the student or the teacher, whose clips resemble one another as those of a model do: one
    vector that all tokens share, one of each clip, one of each position and a rest.
    """
    width, tokens = WIDTHS[role], GRID[0] * GRID[1]
    shapes = {"shared": (1, 1, width), "clip": (CLIPS, 1, width), "position": (1, tokens, width)}
    parts = [hashed_uniform(f"{role} {name}", shape) for name, shape in shapes.items()]
    return torch.from_numpy(sum(parts) + hashed_uniform(role, (CLIPS, tokens, width))).to(dtype)
