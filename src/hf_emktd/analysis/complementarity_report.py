"""What the complementarity check says, as Markdown and as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .complementarity import DISTIL, DO_NOT, ESTIMATORS, Agreement, Pair, best_sources
from .tables import markdown_table, with_interval

CONTESTED = (
    "The hypothesis is contested: its paper (arXiv 2510.13182, submitted to ICLR 2026) was rejected; it proves the "
    "claim for joint Gaussians, linear regression and scalar predictions alone, and takes both representations from "
    "networks that are trained already. Advice is a reason to try, not a result."
)
SAME_INPUT = (
    "Only the pairs marked * cross from one sense to the other, which is what the hypothesis is about. Where both "
    "sides have heard, or seen, the same input, their mutual information is infinite in truth, since both are "
    "functions of it: the estimates are what so many clips can resolve, and the advice is the estimators' as much as "
    "the models'. And where sound and picture of a clip share nothing but its label, as in sets paired by class, no "
    "pair can cross with more than the student knows of the label: the answer is no before anything is measured."
)
INTERVALS = (
    "Intervals of 95 %: of the nearest neighbours from random halves of the clips, since a bootstrap would make "
    "clips their own neighbours; of the learned bound from a bootstrap over clips that the critic had not seen, its "
    "training not repeated. Both estimators see a part of what is shared, so truth lies rather above than below."
)


@dataclass(frozen=True)
class Setting:
    """
    What was compared.

    Args:
        teacher, student: names.
        dataset, split: of the clips.
        clips: how many.
        components: of each side, for the nearest neighbours.
        label_entropy: H(Y) in nats.
        ceiling: the most nats of the learned bound between tokens.
    """

    teacher: str
    student: str
    dataset: str
    split: str
    clips: int
    components: int
    label_entropy: float
    ceiling: float


def complementarity_dict(setting: Setting, pairs: Sequence[Pair], agreement: Agreement | None) -> dict[str, Any]:
    """Everything, for JSON."""
    told = {
        pair.name: {
            **asdict(pair),
            "margins": {name: asdict(margin) for name, margin in pair.margins.items()},
            "advice": pair.advice,
        }
        for pair in pairs
    }
    return {
        **asdict(setting),
        "pairs": told,
        "best_sources": best_sources(pairs),
        "agreement": None if agreement is None else asdict(agreement),
        "note": CONTESTED,
    }


def complementarity_markdown(setting: Setting, pairs: Sequence[Pair], agreement: Agreement | None) -> str:
    """The table, what the hypothesis advises, and how that compared with measured gains."""
    parts = [
        f"# Complementarity of {setting.teacher} and {setting.student}",
        f"{setting.clips:,} clips of {setting.dataset}, split {setting.split}. In nats; the labels have "
        f"{setting.label_entropy:.2f}, the learned bound between tokens ends at {setting.ceiling:.2f}. Nearest "
        f"neighbours in {setting.components} principal components of each side.",
        _pairs_table(pairs, {} if agreement is None else agreement.gains),
        "\n".join(f"- {sentence}" for sentence in advice_sentences(pairs)),
        *([] if agreement is None else [agreement_sentence(agreement)]),
        f"{CONTESTED} {SAME_INPUT}",
        INTERVALS,
    ]
    return "\n\n".join(parts)


def advice_sentences(pairs: Sequence[Pair]) -> list[str]:
    """For each branch of the student: from where to distil into it, by the hypothesis."""
    sentences = []
    for student, sources in best_sources(pairs).items():
        own = [pair for pair in pairs if pair.student == student]
        by_advice = {advice: [pair.teacher for pair in own if pair.advice == advice] for advice in (DISTIL, DO_NOT)}
        largest = " and ".join(f"{source} ({estimator})" for estimator, source in sources.items())
        sentences.append(
            f"student's **{student}** branch: distil from the teacher's {_listed(by_advice[DISTIL])}, do not from "
            f"{_listed(by_advice[DO_NOT])}; the largest margin has {largest}."
        )
    return sentences


def agreement_sentence(agreement: Agreement) -> str:
    """How right the advice was, beside the advice to distil always."""
    correlations = ", ".join(
        f"{'unknown' if value is None else format(value, '+.2f')} by the {name}"
        for name, value in agreement.rank_correlations.items()
    )
    return (
        f"**Measured.** Of {len(agreement.gains)} pairs with a measured gain the hypothesis decides "
        f"{agreement.decided}, and is right about {agreement.right} of them; to distil every one would have been "
        f"right about {agreement.gained}. Rank correlation of margin and gain: {correlations}."
    )


def _pairs_table(pairs: Sequence[Pair], gains: Mapping[str, float]) -> str:
    header = ["teacher", "student"]
    header += [f"{what}, {name}" for name in ESTIMATORS for what in ("I(teacher; student)", "I(student; labels)")]
    header += ["advice", *(["gain (points)"] if gains else [])]
    rows = [
        [
            pair.teacher,
            f"{pair.student}{' *' if pair.crosses else ''}",
            *(with_interval(side[name]) for name in ESTIMATORS for side in (pair.shared, pair.told)),
            pair.advice,
            *([f"{gains[pair.name]:+.1f}" if pair.name in gains else ""] if gains else []),
        ]
        for pair in pairs
    ]
    return markdown_table(header, rows, texts=2)


def _listed(branches: Sequence[str]) -> str:
    return ", ".join(branches) or "none"
