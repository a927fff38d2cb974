from __future__ import annotations

import sys
from pathlib import Path

import datasets
import pytest

# tiny models and clips
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from report_runs import make_run


@pytest.fixture(scope="session")
def clip_cache(tmp_path_factory):
    """Features of clips are kept here, not where a user's are."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("datasets")
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        yield folder


@pytest.fixture(scope="session")
def finished(clip_cache, tmp_path_factory) -> Path:
    """A folder with `teacher` and `student`; treat as read-only."""
    return make_run(tmp_path_factory.mktemp("finished"))
