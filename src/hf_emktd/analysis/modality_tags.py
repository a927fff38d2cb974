"""Entropy weights of events that can be heard, seen or both, as people have tagged them."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .monitor_readings import Readings

TAGS = {"A": "audible", "V": "visible", "AV": "both"}
TAG_COLUMNS = ("video_id", "label", "modality")


@dataclass(frozen=True)
class TagWeights:
    """Mean weight of each branch over the clips of a tag, and its standard error, NaN of one clip."""

    tag: str
    clips: int
    weights: dict[str, float]
    errors: dict[str, float]


def read_tags(path: str | Path) -> dict[tuple[str, str], str]:
    """
    By clip and label whether the event is audible (`A`), visible (`V`) or both (`AV`): a table with the columns
    video_id, label and modality, such as VGGSounder's (arXiv 2508.08237).

    Raises:
        ValueError: if a column is missing or a tag is unknown.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in TAG_COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} has no column {', '.join(missing)}; it has {reader.fieldnames}.")
        tags = {(row["video_id"], row["label"]): row["modality"] for row in reader}
    unknown = sorted(set(tags.values()) - set(TAGS))
    if unknown:
        raise ValueError(f"{path} has the tags {', '.join(map(repr, unknown))}; known are {', '.join(TAGS)}.")
    return tags


def weights_by_tag(
    readings: Readings,
    clip_ids: Sequence[str],
    labels: Sequence[str],
    tags: Mapping[tuple[str, str], str],
    entropy_lambda: float,
) -> list[TagWeights]:
    """
    Mean weights of the clips whose own label is audible, visible or both. A clip whose own label has no tag, because
    those who listened and looked did not find it, is left out.

    Raises:
        ValueError: if no clip has a tag.
    """
    own = np.array([tags.get(pair, "") for pair in zip(clip_ids, labels, strict=True)])
    weights = readings.weights(entropy_lambda)
    groups = [(tag, own == tag) for tag in TAGS if (own == tag).any()]
    if not groups:
        raise ValueError(
            f"none of the {len(own)} clips has a tag for its label; their names look like {clip_ids[0]!r} with "
            f"{labels[0]!r}, the table's like {next(iter(tags), None)!r}."
        )
    return [
        TagWeights(
            tag=tag,
            clips=int(members.sum()),
            weights={branch: float(value[members].mean()) for branch, value in weights.items()},
            errors={branch: _standard_error(value[members]) for branch, value in weights.items()},
        )
        for tag, members in groups
    ]


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else math.nan
