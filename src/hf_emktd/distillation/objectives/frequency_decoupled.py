"""Frequency-decoupled cross-modal distillation (FD-CMKD)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

from ..frequencies import low_bins, signed_log, split_frequencies
from ..kernels import at_least_float32, autocast_disabled, unit_tokens
from ..teacher import TeacherSignal
from ..token_distillation import MODALITIES, modalities_of
from .base import DistillationObjective, check_weight
from .projections import check_widths

Pairs = Iterable[Sequence[str]]


class FrequencyDecoupledDistillation(DistillationObjective):
    r"""
    What a student can learn of a teacher with another modality (FD-CMKD, AAAI 2026, https://arxiv.org/abs/2511.19887):
    slow changes along the features of a clip's pooled vector are alike across modalities and are matched strictly,
    fast ones differ and are matched loosely. The student's and the teacher's vector are split by a Fourier transform
    over their features into a low and a high part, and with \\(\bar x = x / \|x\|\\) (scale consistency) and
    \\(\sigma(x) = \mathrm{sign}(x) \log(1 + |x|)\\) the part of a pair of branches is

    $$\lambda_l \, \mathrm{MSE}(\bar s_l, \bar t_l) + \lambda_h \, \mathrm{MSE}(\sigma(\bar s_h), \sigma(\bar t_h))
    + \lambda_c \sum_{b \in \{l, h\}} [\mathrm{CE}(C_b(s_b)) + \mathrm{CE}(C_b(t_b))]
    + \lambda_y \sum_b \mathrm{CE}(Y_b(s_b))$$

    with classifiers \\(C_b\\) that student and teacher share, classifiers \\(Y_b\\) of the student alone, and CE
    against the labels; each is a ReLU and a linear layer (official file `main_fd_cmkd.py`, `train_epoch`). The mean of
    a vector, frequency 0, belongs to neither part. The mean squared error is over all features of unit vectors, as
    officially, so that it is at most 4 / width: the classifiers weigh more. Float32 or more, even under autocast.

    The classifiers are thrown away after training: the student answers with its own head. The official script reports
    the best of three heads and of all epochs **on its test set**; choose epochs on validation data
    (`load_best_model_at_end`).

    Args:
        student_widths, teacher_widths (`dict[str, int]`):
            By branch the width of a model's tokens, the `branch_widths` of its config. Where those of a pair differ a
            linear map brings the student's vector to the teacher's width; the paper has equal ones and no map.
        num_labels (`int`): classes.
        weight (`float`, *optional*, defaults to 1.0): factor of every part; 1 in the official code.
        low_weight, high_weight (`float`, *optional*, default to 1.0):
            \\(\lambda_l\\) and \\(\lambda_h\\); 1 in the official code. 0 switches a term off.
        align_weight (`float`, *optional*, defaults to 1.0): \\(\lambda_c\\); 1 in the official code.
        head_weight (`float`, *optional*, defaults to 1.0): \\(\lambda_y\\); 1 in the official code.
        cut (`float`, *optional*, defaults to 0.5):
            Share of the spectrum that is low; a half is the paper's best.
        pairs (`Sequence[tuple[str, str]]`, *optional*):
            `(student branch, teacher branch)`, each the source of one part. By default those of [`default_pairs`].

    Raises:
        ValueError: for an option outside its range, a pair that the models do not have, or models without a pair; from
            `forward`, without labels or if the teacher lacks the tokens of a pair.
    """

    name = "fd_cmkd"
    compares = (
        "pooled vectors of two modalities, slow changes along the features strictly, fast ones loosely, with "
        "classifiers that both share"
    )
    source = "https://arxiv.org/abs/2511.19887"
    citation = """@inproceedings{liu2026distilling,
  title={Distilling Cross-Modal Knowledge via Feature Disentanglement},
  author={Liu, Junhong and Zhang, Yuan and Huang, Tao and Xu, Wenchao and Yang, Renyu},
  booktitle={Proceedings of the AAAI Conference on Artificial Intelligence},
  volume={40},
  number={28},
  pages={23739--23747},
  year={2026}
}"""
    requires_tokens = True

    def __init__(
        self,
        student_widths: Mapping[str, int],
        teacher_widths: Mapping[str, int],
        num_labels: int,
        weight: float = 1.0,
        low_weight: float = 1.0,
        high_weight: float = 1.0,
        align_weight: float = 1.0,
        head_weight: float = 1.0,
        cut: float = 0.5,
        pairs: Pairs | None = None,
    ) -> None:
        super().__init__()
        check_weight(self, weight)
        self.weight = weight
        self.term_weights = {"low": low_weight, "high": high_weight, "align": align_weight, "head": head_weight}
        _check_term_weights(self.term_weights)
        self.cut = cut
        self.pairs = _checked_pairs(pairs, student_widths, teacher_widths)
        for _, teacher in self.pairs:
            low_bins(teacher_widths[teacher], cut)
        self.heads = nn.ModuleDict(
            {
                _pair_name(student, teacher): _PairHeads(student_widths[student], teacher_widths[teacher], num_labels)
                for student, teacher in self.pairs
            }
        )

    @classmethod
    def for_models(cls, student_config: Any, teacher_config: Any, **options: Any) -> Self:
        """With the widths and the classes of the two."""
        widths = student_config.branch_widths, teacher_config.branch_widths
        return cls(*widths, student_config.num_labels, **options)

    def forward(
        self, student_output: ModelOutput, teacher_signal: TeacherSignal, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """
        `{"fd_cmkd_audio_from_visual": scalar, ...}`, one for each pair of which the student returned tokens
        `(batch, tokens, width)`; `labels` are int64 `(batch,)` or float `(batch, classes)`.
        """
        if labels is None:
            raise ValueError("FrequencyDecoupledDistillation trains classifiers and needs the labels of the clips.")
        parts = {}
        for student, teacher in self.pairs:
            tokens = getattr(student_output, f"{student}_tokens")
            if tokens is not None:
                with autocast_disabled(tokens):
                    vectors = _pooled(tokens), _pooled(_tokens_of(teacher, teacher_signal)).detach()
                    terms = self._terms(self.heads[_pair_name(student, teacher)], *vectors, labels)
                weighted = [self.term_weights[name] * term for name, term in terms.items()]
                parts[f"{self.name}_{_pair_name(student, teacher)}"] = self.weight * torch.stack(weighted).sum()
        if not parts:
            branches = ", ".join(dict.fromkeys(student for student, _ in self.pairs))
            raise ValueError(f"the student returned no tokens of {branches}; call it with output_tokens=True.")
        return parts

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "weight": self.weight,
            **{f"{term}_weight": weight for term, weight in self.term_weights.items()},
            "cut": self.cut,
            "pairs": [list(pair) for pair in self.pairs],
        }

    def _terms(self, heads: _PairHeads, student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Tensor]:
        students = split_frequencies(heads.projection(student), self.cut)
        teachers = split_frequencies(teacher, self.cut)
        (low, high), (teacher_low, teacher_high) = (map(unit_tokens, parts) for parts in (students, teachers))
        return {
            "low": F.mse_loss(low, teacher_low),
            "high": F.mse_loss(signed_log(high), signed_log(teacher_high)),
            "align": _cross_entropy(heads.shared, students, labels) + _cross_entropy(heads.shared, teachers, labels),
            "head": _cross_entropy(heads.own, students, labels),
        }


def default_pairs(student_branches: Iterable[str], teacher_branches: Iterable[str]) -> list[tuple[str, str]]:
    """
    `(student branch, teacher branch)`: sound learns from the picture and the picture from sound, as in the paper.

    Where the teacher hears or sees what the student does not, the student's fusion tokens, which its head reads, learn
    from the teacher's too. The paper has networks of one modality and compares the vectors before their classifiers:
    between two such models that is this pair.
    """
    student_branches, teacher_branches = dict.fromkeys(student_branches), dict.fromkeys(teacher_branches)
    crossed = zip(MODALITIES, reversed(MODALITIES), strict=True)
    pairs = [(own, other) for own, other in crossed if own in student_branches and other in teacher_branches]
    if set(modalities_of(teacher_branches)) - set(modalities_of(student_branches)):
        pairs.append(("fusion", "fusion"))
    return pairs


class _PairHeads(nn.Module):
    """What is learnt for a pair of branches: the map to the teacher's width and two times two classifiers."""

    def __init__(self, student_width: int, teacher_width: int, num_labels: int) -> None:
        super().__init__()
        equal = student_width == teacher_width
        self.projection = nn.Identity() if equal else nn.Linear(student_width, teacher_width, bias=False)
        self.shared = nn.ModuleList(_classifier(teacher_width, num_labels) for _ in ("low", "high"))
        self.own = nn.ModuleList(_classifier(teacher_width, num_labels) for _ in ("low", "high"))


def _classifier(width: int, num_labels: int) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), nn.Linear(width, num_labels))


def _cross_entropy(classifiers: nn.ModuleList, parts: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
    low, high = (classifier(part) for classifier, part in zip(classifiers, parts, strict=True))
    labels = labels.to(low.dtype) if labels.is_floating_point() else labels
    return F.cross_entropy(low, labels) + F.cross_entropy(high, labels)


def _pooled(tokens: Tensor) -> Tensor:
    return at_least_float32(tokens).mean(dim=1)


def _tokens_of(branch: str, teacher_signal: TeacherSignal) -> Tensor:
    if branch not in teacher_signal.tokens:
        raise ValueError(
            f"the teacher returned no {branch} tokens, only those of {list(teacher_signal.tokens)}. Give it the "
            "input, or leave the branch out of `pairs`."
        )
    return teacher_signal.tokens[branch]


def _pair_name(student: str, teacher: str) -> str:
    return f"{student}_from_{teacher}"


def _check_term_weights(weights: Mapping[str, float]) -> None:
    for term, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"FrequencyDecoupledDistillation: {term}_weight must not be negative, got {weight}.")


def _checked_pairs(
    pairs: Pairs | None, student_widths: Mapping[str, int], teacher_widths: Mapping[str, int]
) -> list[tuple[str, str]]:
    pairs = default_pairs(student_widths, teacher_widths) if pairs is None else [tuple(pair) for pair in pairs]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError(
            f"fd_cmkd needs pairs of a student branch and a teacher branch, got {pairs} for a student with "
            f"{', '.join(student_widths)} and a teacher with {', '.join(teacher_widths)}. By default it crosses "
            "modalities: give the teacher one that the student lacks, or name pairs."
        )
    students, teachers = zip(*pairs, strict=True)
    check_widths(students, student_widths=student_widths)
    check_widths(teachers, teacher_widths=teacher_widths)
    return pairs
