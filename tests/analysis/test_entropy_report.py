from __future__ import annotations

import json

import numpy as np
import pytest

from hf_emktd.analysis import (
    EntropyAnalysis,
    Level,
    Readings,
    TagWeights,
    draw_entropies,
    entropy_bins,
    rank_correlations,
)

BRANCHES = ("audio", "visual", "fusion")


def level(value):
    means = dict.fromkeys(BRANCHES, 0.5)
    return Level(value, means, dict.fromkeys(BRANCHES, (0.4, 0.6)), means, means, 0.75)


@pytest.fixture
def analysis():
    random = np.random.default_rng(0)
    scores = {branch: random.integers(2, size=40).astype(float) for branch in BRANCHES}
    readings = Readings({branch: random.uniform(0, 1, 40) for branch in BRANCHES}, scores, np.ones(40))
    return EntropyAnalysis(
        teacher="runs/teacher",
        dataset="touchtone",
        split="test",
        score="accuracy",
        entropy_lambda=0.5,
        largest_entropy=1.1,
        sweep_clips=20,
        readings=readings,
        bins=entropy_bins(readings, 0.5, bins=4),
        rank_correlations=rank_correlations(readings) | {"fusion": None},
        covers=[level(0.0), level(1.0)],
        noises=[level(30.0), level(-20.0)],
        tags=[TagWeights("AV", 3, dict.fromkeys(BRANCHES, 0.625), dict.fromkeys(BRANCHES, 0.01))],
    )


def test_markdown(analysis):
    text = analysis.to_markdown()
    assert "40 clips of touchtone, split test; 20 of them in the sweeps." in text
    assert text.count("| audio | ") == 4 and "fusion unknown." in text
    assert "| 100% | 0.50 | 0.50 | 0.50 | 50.0% | 50.0% | 50.0% | 75.0% |" in text and "| -20 dB | 0.50 |" in text
    assert "| both | 3 | 0.625 ± 0.010 |" in text


def test_without_tags_nothing_is_said_of_them(analysis):
    text = EntropyAnalysis(**{**vars(analysis), "tags": []}).to_markdown()
    assert "heard and seen" not in text


def test_json(analysis):
    found = json.loads(json.dumps(analysis.to_dict()))
    assert found["clips"] == 40 and "readings" not in found
    assert len(found["bins"]["visual"]) == 4 and len(found["entropy_quartiles"]["audio"]) == 3
    assert found["tags"][0]["weights"]["audio"] == 0.625


def test_pictures(analysis, tmp_path):
    figures = draw_entropies(analysis)
    assert list(figures) == ["histogram", "bins", "sweeps", "tags"]
    for name, figure in figures.items():
        figure.savefig(tmp_path / f"{name}.png")
    histogram = figures["histogram"].axes
    assert [axis.get_title() for axis in histogram] == list(BRANCHES)
    assert sum(patch.get_height() for patch in histogram[0].patches) == 40
    assert "tags" not in draw_entropies(EntropyAnalysis(**{**vars(analysis), "tags": []}))
