"""The probes of an entropy monitor: what they see of a branch's tokens, their loss and their entropy."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .kernels import at_least_float32
from .token_distillation import Grid


def _layers(width: int, outputs: int, hidden_layers: int) -> list[nn.Module]:
    hidden = [layer for _ in range(hidden_layers) for layer in (nn.Linear(width, width), nn.GELU())]
    return [nn.LayerNorm(width, elementwise_affine=False), *hidden, nn.Linear(width, outputs)]


class ClipProbe(nn.Sequential):
    """
    Tells the class of a clip from the mean of a branch's tokens: `(batch, width)` -> logits `(batch, num_labels)`.
    """

    def __init__(self, width: int, num_labels: int, hidden_layers: int = 0) -> None:
        super().__init__(*_layers(width, num_labels, hidden_layers))

    def features(self, tokens: Tensor) -> Tensor:
        """`(batch, tokens, width)` -> `(batch, width)`, float32 or float64: what the probe sees. Means stay."""
        tokens = at_least_float32(tokens)
        return tokens.mean(dim=1) if tokens.ndim == 3 else tokens

    def targets(self, labels: Tensor) -> Tensor:
        """The labels themselves, int64 `(batch,)` or float `(batch, num_labels)`."""
        return labels

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy."""
        return F.cross_entropy(logits, targets)

    def entropy(self, logits: Tensor) -> Tensor:
        """Entropy of the softmax in nats, `(batch,)`: between 0 and `log(num_labels)`."""
        return entropy_of(logits)


class MaskProbe(nn.Sequential):
    """
    Tells which positions of a picture sound, frame by frame: `(batch, frames, positions, width)` -> logits
    `(batch, frames, rows, columns)`.

    Tokens that lie on the picture are probed one by one, with the same weights, each for the square of positions that
    it covers: the per-pixel linear probe of EM-KTD, for tokens that are coarser than pixels. Tokens without a place in
    the picture (sound, queries) are averaged within the frame, and one linear layer tells every position of the mask.

    Args:
        width: of the tokens.
        token_grid: `(rows, columns)` of a frame's tokens.
        mask_grid: `(rows, columns)` of the mask. Of tokens on the picture it may be finer than theirs; the probe then
            tells the largest multiple of their grid that is not finer than it.
        on_picture: whether the tokens lie on the picture.
        hidden_layers: 0 for the linear probe.
        entropy_over: `"frame"` or `"foreground"`, see [`EntropyMonitorConfig`].
    """

    def __init__(
        self,
        width: int,
        token_grid: Grid,
        mask_grid: Grid,
        *,
        on_picture: bool = True,
        hidden_layers: int = 0,
        entropy_over: str = "frame",
    ) -> None:
        side = max(1, min(fine // coarse for fine, coarse in zip(mask_grid, token_grid, strict=True)))
        grid = (side * token_grid[0], side * token_grid[1]) if on_picture else tuple(mask_grid)
        super().__init__(*_layers(width, side * side if on_picture else grid[0] * grid[1], hidden_layers))
        self.token_grid = token_grid
        self.grid = grid
        self.on_picture = on_picture
        self.entropy_over = entropy_over

    def features(self, tokens: Tensor) -> Tensor:
        """
        `(batch, frames * rows * columns, width)` -> `(batch, frames, positions, width)`: what the probe sees, with one
        position for tokens without a place. Features stay.

        Raises:
            ValueError: if the tokens do not fill whole frames.
        """
        if tokens.ndim == 4:
            return tokens
        rows, columns = self.token_grid
        if tokens.shape[1] % (rows * columns):
            raise ValueError(
                f"got {tokens.shape[1]} tokens, which are not whole frames of {rows} x {columns}. The monitor's "
                "branch_grids must be those of the teacher."
            )
        frames = tokens.unflatten(1, (-1, rows * columns))
        return frames if self.on_picture else at_least_float32(frames).mean(dim=2, keepdim=True)

    def targets(self, labels: Tensor) -> Tensor:
        """[`pool_masks`] onto the probe's grid."""
        return pool_masks(labels, self.grid)

    def forward(self, features: Tensor) -> Tensor:
        outputs = super().forward(features)
        if not self.on_picture:
            return outputs.flatten(-2).unflatten(-1, self.grid)
        squares = outputs.unflatten(-2, self.token_grid).movedim(-1, -3)
        return F.pixel_shuffle(squares, self.grid[0] // self.token_grid[0]).squeeze(-3)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean binary cross entropy over the positions of labelled frames, 0 if there are none."""
        labelled = targets >= 0
        losses = F.binary_cross_entropy_with_logits(logits, targets.clamp_min(0).to(logits.dtype), reduction="none")
        return (losses * labelled).sum() / labelled.sum().clamp_min(1)

    def entropy(self, logits: Tensor) -> Tensor:
        """Binary entropy in nats, `(batch,)`, mean over positions and frames: between 0 and log 2."""
        entropies = binary_entropy_of(logits).flatten(1)
        if self.entropy_over == "frame":
            return entropies.mean(dim=1)
        foreground = logits.sigmoid().flatten(1)
        total = foreground.sum(dim=1).clamp_min(torch.finfo(foreground.dtype).tiny)
        return (foreground * entropies).sum(dim=1) / total


def pool_masks(labels: Tensor, grid: Grid) -> Tensor:
    """
    Masks `(batch, frames, height, width)` of 0, 1 and -100 -> the share of sounding pixels at each position of a grid,
    float32 `(batch, frames, rows, columns)`, negative in frames without a label. Of two sides that do not divide, the
    windows overlap by a pixel.
    """
    return F.adaptive_avg_pool2d(labels.float(), grid)


def entropy_of(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) in nats: `(..., classes)` -> `(...)`, float32 or float64. A logit of -inf adds 0."""
    log_probabilities = at_least_float32(logits).log_softmax(dim=-1)
    finite = log_probabilities.clamp_min(torch.finfo(log_probabilities.dtype).min)
    return -(log_probabilities.exp() * finite).sum(dim=-1)


def binary_entropy_of(logits: Tensor) -> Tensor:
    """Entropy of the two outcomes of sigmoid(logits) in nats, of the shape of `logits`, float32 or float64."""
    return entropy_of(torch.stack([logits, torch.zeros_like(logits)], dim=-1))
