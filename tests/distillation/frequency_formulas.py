"""Pooled vectors and classifiers from formulas, for the golden numbers of FD-CMKD and for the test against them."""

import torch

from formulas import hashed_uniform

CLIPS, WIDTH, CLASSES = 5, 512, 6  # what the official code fixes: 512 features, the six classes of CREMA-D
LABELS = [0, 3, 5, 3, 1]
CLASSIFIERS = [
    f"cls_{kind}_{modality}_{band}" for kind in ("align", "task") for modality in "av" for band in ("low", "high")
]


def formula_vectors(role: str, modality: str) -> torch.Tensor:
    """`(CLIPS, WIDTH)` of the student's or the teacher's audio ("a") or visual ("v") branch."""
    return torch.from_numpy(hashed_uniform(f"{role} {modality}", (CLIPS, WIDTH)))


def formula_classifier(name: str) -> dict[str, torch.Tensor]:
    """Weight and bias of a classifier, by its official name."""
    shapes = {"weight": (CLASSES, WIDTH), "bias": (CLASSES,)}
    return {kind: torch.from_numpy(hashed_uniform(f"{name} {kind}", shape)) / 20 for kind, shape in shapes.items()}
