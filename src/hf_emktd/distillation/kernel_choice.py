"""Which kernel a teacher's tokens ask for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .kernels import TokenKernel, at_least_float32
from .teacher import TeacherSignal
from .token_distillation import BRANCHES

# Those of the paper's ablation.
CANDIDATES = (
    TokenKernel("linear"),
    TokenKernel("polynomial"),
    TokenKernel("rbf", gamma=2.0),
    TokenKernel("rbf", gamma=0.5),
)
# Entries of a Gram matrix, out of a million, that stand for it.
PAIRS = 4096


@torch.no_grad()
def choose_kernel(
    signals: Iterable[TeacherSignal],
    branches: Sequence[str] = BRANCHES,
    candidates: Sequence[TokenKernel] = CANDIDATES,
) -> tuple[TokenKernel, dict[str, float]]:
    """
    The kernel whose Gram matrices say most about what the teacher says, and the score of each candidate by its name.

    The paper gives no rule, and its reviewers asked for one. Ours needs no training: a clip's Gram matrix is worth
    copying as far as clips with similar Gram matrices get similar answers from the teacher. The score is the centred
    kernel alignment (Kornblith et al., 2019, https://huggingface.co/papers/1905.00414) over the clips of all `signals`
    between Gram matrices and logits, mean over the branches, between 0 and 1. Labels are not used.

    Args:
        signals: of clips with different labels; of Gram matrices larger than that, the same 4,096 random entries of
            every clip are compared.

    Raises:
        ValueError: if there are fewer than three clips, or no tokens of `branches`.
    """
    logits, entries = _collect(signals, branches, candidates)
    if len(logits) < 3 or not entries:
        raise ValueError(
            f"a kernel is chosen on at least three clips with tokens of {', '.join(branches)}, got {len(logits)}."
        )
    scores = {
        _label(kernel): sum(alignment(grams, logits) for grams in by_branch) / len(by_branch)
        for kernel, by_branch in zip(candidates, zip(*entries.values(), strict=True), strict=True)
    }
    best = max(candidates, key=lambda kernel: scores[_label(kernel)])
    return best, scores


def alignment(features: Tensor, others: Tensor) -> float:
    """Linear centred kernel alignment of `(clips, features)` and `(clips, others)`; 0 where one is constant."""
    first, second = (_centred_similarity(values.double()) for values in (features, others))
    size = torch.linalg.vector_norm(first) * torch.linalg.vector_norm(second)
    return 0.0 if size == 0 else ((first * second).sum() / size).item()


def _collect(
    signals: Iterable[TeacherSignal], branches: Sequence[str], candidates: Sequence[TokenKernel]
) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """Logits `(clips, outputs)`, and by branch for each candidate the Gram entries `(clips, pairs)`."""
    logits: list[Tensor] = []
    entries: dict[str, list[list[Tensor]]] = {}
    for signal in signals:
        logits.append(at_least_float32(signal.logits).flatten(1).cpu())
        for branch in branches:
            if branch in signal.tokens:
                batches = entries.setdefault(branch, [[] for _ in candidates])
                for kernel, batch in zip(candidates, batches, strict=True):
                    batch.append(_sampled_pairs(kernel.gram(signal.tokens[branch])).cpu())
    joined = {branch: [torch.cat(batch) for batch in batches] for branch, batches in entries.items()}
    return torch.cat(logits) if logits else torch.empty(0, 0), joined


def _sampled_pairs(grams: Tensor) -> Tensor:
    rows, columns = torch.triu_indices(*grams.shape[1:], offset=1, device=grams.device)
    if len(rows) > PAIRS:
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:PAIRS].to(grams.device)
        rows, columns = rows[chosen], columns[chosen]
    return grams[:, rows, columns]


def _centred_similarity(features: Tensor) -> Tensor:
    features = features - features.mean(dim=0)
    return features @ features.T


def _label(kernel: TokenKernel) -> str:
    constants = {name: value for name, value in kernel.to_dict().items() if name != "name"}
    return " ".join([kernel.name, *(f"{name} {value:g}" for name, value in constants.items())])
