"""The Cross-modal Complementarity Hypothesis: from which branch of a teacher a branch of a student should learn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from .estimate import DEVIATIONS, Estimate
from .held_out_bounds import held_out_information, held_out_label_information
from .nearest_neighbours import COMPONENTS, neighbour_information, neighbour_label_information

NEIGHBOURS, LEARNED = ESTIMATORS = ("nearest neighbours", "learned bound")
DISTIL, DO_NOT, UNCLEAR = ("distil", "do not", "unclear")


def pair_name(teacher: str, student: str) -> str:
    """`"audio->visual"`: the teacher's branch first."""
    return f"{teacher}->{student}"


@dataclass(frozen=True)
class Pair:
    r"""
    A branch of the teacher and a branch of the student, with what the hypothesis compares. It says that distilling
    across modalities helps when \\(I(H_1; H_2) > I(H_2; Y)\\): when the student's representation shares more with the
    teacher's than with the labels (arXiv 2510.13182, a submission that was rejected).

    Args:
        teacher, student: branches.
        shared: I(teacher tokens; student tokens) by estimator.
        told: I(student tokens; labels) by estimator.
        crosses: whether the two have no sense in common: one has only heard, the other only seen.
    """

    teacher: str
    student: str
    shared: Mapping[str, Estimate]
    told: Mapping[str, Estimate]
    crosses: bool

    @property
    def name(self) -> str:
        """[`pair_name`] of its branches."""
        return pair_name(self.teacher, self.student)

    @property
    def margins(self) -> dict[str, Estimate]:
        """Shared minus told, by estimator; the interval takes both errors for independent."""
        return {name: _difference(self.shared[name], self.told[name]) for name in self.shared}

    @property
    def advice(self) -> str:
        """`"distil"` or `"do not"` where the intervals of all margins lie on one side of 0, else `"unclear"`."""
        margins = self.margins.values()
        if all(margin.low > 0 for margin in margins):
            return DISTIL
        return DO_NOT if all(margin.high < 0 for margin in margins) else UNCLEAR


def compare_branches(
    teacher_tokens: Mapping[str, np.ndarray],
    student_tokens: Mapping[str, np.ndarray],
    labels: np.ndarray,
    components: int = COMPONENTS,
    seed: int = 0,
) -> Iterable[Pair]:
    """
    Every pair of branches, as soon as it is estimated.

    Args:
        teacher_tokens, student_tokens: by branch `(clips, width)`, as [`pooled_tokens`] gives them, of the same clips.
        labels: int `(clips,)`.
        components: of each side for the nearest-neighbour estimator.
    """
    for student, own in student_tokens.items():
        told = {
            NEIGHBOURS: neighbour_label_information(own, labels, components),
            LEARNED: held_out_label_information(own, labels, seed),
        }
        for teacher, given in teacher_tokens.items():
            shared = {
                NEIGHBOURS: neighbour_information(given, own, components, seed=seed),
                LEARNED: held_out_information(given, own, seed),
            }
            crosses = _senses(teacher, teacher_tokens).isdisjoint(_senses(student, student_tokens))
            yield Pair(teacher, student, shared, told, crosses)


def best_sources(pairs: Sequence[Pair]) -> dict[str, dict[str, str]]:
    """By branch of the student and estimator, the teacher's branch with the largest margin."""
    best: dict[str, dict[str, str]] = {}
    for student in dict.fromkeys(pair.student for pair in pairs):
        own = [pair for pair in pairs if pair.student == student]
        best[student] = {name: max(own, key=lambda pair: pair.margins[name].nats).teacher for name in own[0].shared}
    return best


def label_entropy(labels: np.ndarray) -> float:
    """H(Y) in nats, the most that any branch can tell of the labels."""
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(shares * np.log(shares)).sum())


@dataclass(frozen=True)
class Agreement:
    """
    How the hypothesis's advice compares with measured gains.

    Args:
        gains: by name of a pair, in points.
        decided: pairs with a gain and a clear advice.
        right: of these, how many gained where it said distil, or did not where it said do not.
        gained: of these, how many gained: what the advice to distil everything would have been right about.
        rank_correlations: by estimator, Spearman's between margin and gain over all pairs with a gain; `None` for
            fewer than three, or where all are equal.
    """

    gains: Mapping[str, float]
    decided: int
    right: int
    gained: int
    rank_correlations: Mapping[str, float | None]


def compare_with_gains(pairs: Sequence[Pair], gains: Mapping[str, float]) -> Agreement:
    """
    Args:
        gains: by name of a pair, in points; pairs without one are left out.

    Raises:
        ValueError: if a gain is of no pair.
    """
    check_gains(gains, [pair.name for pair in pairs])
    measured = [pair for pair in pairs if pair.name in gains]
    decided = [pair for pair in measured if pair.advice != UNCLEAR]
    right = [pair for pair in decided if (gains[pair.name] > 0) == (pair.advice == DISTIL)]
    gained = [pair for pair in decided if gains[pair.name] > 0]
    return Agreement(dict(gains), len(decided), len(right), len(gained), _rank_correlations(measured, gains))


def _senses(branch: str, branches: Iterable[str]) -> set[str]:
    """What has reached a branch of a model with these branches: fusion has whatever the model has."""
    return set(branches) - {"fusion"} if branch == "fusion" else {branch}


def check_gains(gains: Mapping[str, float], names: Sequence[str]) -> None:
    """Raises `ValueError` if a gain is of none of the pairs of these names."""
    unknown = [name for name in gains if name not in names]
    if unknown:
        raise ValueError(
            f"gains of {', '.join(unknown)}, which are no pairs of these models' branches: {', '.join(names)}."
        )


def _rank_correlations(pairs: Sequence[Pair], gains: Mapping[str, float]) -> dict[str, float | None]:
    correlations: dict[str, float | None] = {}
    for name in ESTIMATORS:
        margins, measured = [pair.margins[name].nats for pair in pairs], [gains[pair.name] for pair in pairs]
        told = len(pairs) > 2 and len(set(measured)) > 1 and len(set(margins)) > 1
        correlations[name] = float(spearmanr(margins, measured).statistic) if told else None
    return correlations


def _difference(first: Estimate, second: Estimate) -> Estimate:
    nats, error = first.nats - second.nats, math.hypot(first.standard_error, second.standard_error)
    return Estimate(nats, nats - DEVIATIONS * error, nats + DEVIATIONS * error, error)
