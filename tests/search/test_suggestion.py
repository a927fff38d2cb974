"""From a teacher and a budget to a ranked list."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from tiny_runs import make_features, make_model, make_views

from hf_emktd.metrics import count_macs, count_parameters
from hf_emktd.search import Budget, SearchArguments, scoring_batches, suggest_students
from hf_emktd.search import suggestion as suggestion_module

SEARCH = SearchArguments(
    candidates=3, repetitions=1, threads=1, score_batches=2, score_batch_size=4, initialisations=2
)


class Views:
    """Stands in for `ClipData`: plain views of `count` clips."""

    def __init__(self, count: int) -> None:
        self.views = make_views(make_features(count=count))

    def plain_views(self, name: str) -> Dataset:
        assert name == "train"
        return self.views


@pytest.fixture(scope="module")
def teacher():
    return make_model()


@pytest.fixture(scope="module")
def batches():
    return scoring_batches(Views(9), SEARCH)


class TestBatches:
    def test_are_of_different_clips_the_same_every_time(self):
        batches = scoring_batches(Views(9), SEARCH)
        assert [len(batch["labels"]) for batch in batches] == [4, 4]
        inputs = torch.cat([batch["input_values"] for batch in batches]).flatten(1)
        assert len(inputs.unique(dim=0)) == 8
        again = scoring_batches(Views(9), SEARCH)
        assert all(torch.equal(a["input_values"], b["input_values"]) for a, b in zip(batches, again, strict=True))

    def test_of_few_clips_are_smaller_but_never_of_one(self):
        assert [len(batch["labels"]) for batch in scoring_batches(Views(6), SEARCH)] == [4, 2]
        assert [len(batch["labels"]) for batch in scoring_batches(Views(5), SEARCH)] == [4]


class TestSuggestions:
    def test_all_keep_the_budget_and_the_best_score_is_first(self, teacher, batches):
        budget = Budget(max_params="6k", max_macs="60k", max_latency_ms=10_000.0, max_memory_mb=1000.0)
        suggestions = suggest_students(teacher, batches, budget, SEARCH)
        assert len(suggestions) == 3
        totals = [suggestion.score.total for suggestion in suggestions]
        assert totals == sorted(totals, reverse=True)
        for suggestion in suggestions:
            student = suggestion.student
            model = type(teacher)(student.candidate.config)
            assert count_parameters(model) == student.candidate.parameters <= 6000
            assert count_macs(model) == student.macs <= 60_000
            assert 0 < student.latency_ms <= 10_000 and 0 < student.memory_mb <= 1000

    def test_what_is_too_slow_or_too_large_is_left_out(self, teacher, batches, monkeypatch):
        latencies, memories = iter([1.0, 9.0, 1.0]), iter([50.0, 70.0])
        monkeypatch.setattr(suggestion_module, "measure_latency", lambda *_: next(latencies))
        monkeypatch.setattr(suggestion_module, "measure_peak_memory", lambda *_: next(memories))
        budget = Budget(max_params="8k", max_latency_ms=5.0, max_memory_mb=60.0)
        (suggestion,) = suggest_students(teacher, batches, budget, SEARCH)
        assert (suggestion.student.latency_ms, suggestion.student.memory_mb) == (1.0, 50.0)

    def test_threads_are_as_before(self, teacher, monkeypatch):
        seen = []
        monkeypatch.setattr(
            suggestion_module, "measure_latency", lambda *_: seen.append(torch.get_num_threads()) or 99.0
        )
        before = torch.get_num_threads()
        with pytest.raises(ValueError, match="no measured student is within"):
            suggest_students(
                teacher, [], Budget(max_latency_ms=5.0), SearchArguments(candidates=1, threads=before + 1)
            )
        assert seen == [before + 1] and torch.get_num_threads() == before

    def test_memory_that_nobody_knows_is_no_reason_to_admit(self, teacher, monkeypatch):
        monkeypatch.setattr(suggestion_module, "measure_peak_memory", lambda *_: None)
        with pytest.raises(ValueError, match="on Linux only"):
            suggest_students(teacher, [], Budget(max_memory_mb=5.0), SEARCH)

    @pytest.mark.parametrize(
        ("limits", "message"),
        [
            ({"max_params": "100"}, "at most 100 parameters; the smallest that is searched has"),
            ({"max_macs": "10"}, "at most 10 MACs; the fewest are"),
        ],
    )
    def test_budgets_that_nothing_keeps(self, teacher, limits, message):
        with pytest.raises(ValueError, match=message):
            suggest_students(teacher, [], Budget(**limits), SEARCH)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": 0}, "candidates must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"score_batch_size": 1}, "one clip has no relations; got 1"),
        ({"teacher_weights": "old"}, "one of random, trained, got 'old'"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        SearchArguments(**options)
