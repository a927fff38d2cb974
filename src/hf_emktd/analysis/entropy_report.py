"""What the entropy analysis says, as Markdown and as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .corruption_sweeps import Level
from .entropy_bins import EntropyBin
from .modality_tags import TAGS, TagWeights
from .monitor_readings import Readings
from .tables import markdown_table


@dataclass(frozen=True)
class EntropyAnalysis:
    """
    All that was found.

    Args:
        teacher, dataset, split: names.
        score: what the scores are: `"accuracy"` or `"MJ"`.
        entropy_lambda: of the weights.
        largest_entropy: in nats, of a probe that knows nothing.
        sweep_clips: clips of the sweeps.
        readings: of the clips as they are.
        bins, rank_correlations: by branch.
        covers, noises: the sweeps.
        tags: *optional*.
    """

    teacher: str
    dataset: str
    split: str
    score: str
    entropy_lambda: float
    largest_entropy: float
    sweep_clips: int
    readings: Readings
    bins: Mapping[str, Sequence[EntropyBin]]
    rank_correlations: Mapping[str, float | None]
    covers: Sequence[Level]
    noises: Sequence[Level]
    tags: Sequence[TagWeights] = field(default_factory=list)

    @property
    def branches(self) -> list[str]:
        """Those that the monitor probes."""
        return list(self.readings.entropies)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON; of the readings the quartiles of the entropies."""
        found = {name: value for name, value in asdict(self).items() if name != "readings"}
        entropies = self.readings.entropies
        return found | {
            "clips": len(self.readings.teacher_scores),
            "entropy_quartiles": {
                branch: np.quantile(value, (0.25, 0.5, 0.75)).tolist() for branch, value in entropies.items()
            },
        }

    def to_markdown(self) -> str:
        """A table for each question."""
        clips = len(self.readings.teacher_scores)
        parts = [
            f"# Entropies of {self.teacher}",
            f"{clips:,} clips of {self.dataset}, split {self.split}; {self.sweep_clips:,} of them in the sweeps. "
            f"Entropies in nats, of a probe that knows nothing {self.largest_entropy:.2f}. A branch's weight is "
            f"exp(-{self.entropy_lambda:g} entropy).",
            f"## Does entropy know where a branch errs?\n\n{self._bins_table()}\n\n{self._correlations()}",
            f"## Pictures covered\n\n{self._sweep_table(self.covers, 'covered', '{:.0%}')}",
            f"## Sounds in noise\n\n{self._sweep_table(self.noises, 'signal to noise', '{:+.0f} dB')}",
            *([f"## What can be heard and seen\n\n{self._tags_table()}"] if self.tags else []),
        ]
        return "\n\n".join(parts)

    def _bins_table(self) -> str:
        header = ["branch", "entropy", "clips", f"{self.score} of the probe", f"{self.score} of the teacher", "weight"]
        rows = [
            [
                branch,
                f"{one.low:.2f} to {one.high:.2f}",
                f"{one.clips}",
                f"{one.probe_score:.1%}",
                f"{one.teacher_score:.1%}",
                f"{one.weight:.2f}",
            ]
            for branch in self.branches
            for one in self.bins[branch]
        ]
        return markdown_table(header, rows)

    def _correlations(self) -> str:
        told = ", ".join(
            f"{branch} {'unknown' if value is None else format(value, '+.2f')}"
            for branch, value in self.rank_correlations.items()
        )
        return f"Rank correlation of a clip's entropy with the probe's {self.score}: {told}."

    def _sweep_table(self, levels: Sequence[Level], title: str, shape: str) -> str:
        header = [title, *(f"weight, {branch}" for branch in self.branches)]
        header += [
            *(f"{self.score} of the {branch} probe" for branch in self.branches),
            f"{self.score} of the teacher",
        ]
        rows = [
            [
                shape.format(level.value),
                *(f"{level.weights[branch]:.2f}" for branch in self.branches),
                *(f"{level.probe_scores[branch]:.1%}" for branch in self.branches),
                f"{level.teacher_score:.1%}",
            ]
            for level in levels
        ]
        return markdown_table(header, rows)

    def _tags_table(self) -> str:
        header = ["the event is", "clips", *(f"weight, {branch}" for branch in self.branches)]
        rows = [
            [
                TAGS[one.tag],
                f"{one.clips}",
                *(_with_error(one.weights[branch], one.errors[branch]) for branch in self.branches),
            ]
            for one in self.tags
        ]
        return markdown_table(header, rows) + "\n\nMeans and their standard errors."


def _with_error(value: float, error: float) -> str:
    return f"{value:.3f}" if math.isnan(error) else f"{value:.3f} ± {error:.3f}"
