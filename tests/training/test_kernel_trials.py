"""`--ktd_kernel auto`: what is tried, what is chosen, and what an interrupted choice keeps."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from tiny_runs import make_arguments, make_model

from hf_emktd.distillation import TokenKernel
from hf_emktd.training import build_objectives, check_kernel_trials, choose_kernel, is_kernel_open
from hf_emktd.training.kernel_trials import TRIALS_NAME, kernel_trials

RBF_2_AT_10 = "rbf gamma 2, weight x 10"


def arguments(folder, **options):
    return make_arguments(folder, **{"objective": ["em_ktd", "clip_ktd", "kd"], "ktd_kernel": "auto"} | options)


def objectives_for(args):
    config = make_model().config
    return build_objectives(args, config, config)


class TestTrials:
    def test_four_kernels_at_two_weights(self, tmp_path):
        names = [trial.name for trial in kernel_trials(arguments(tmp_path))]
        assert len(set(names)) == 8 and names[0] == "linear, weight x 1" and names[5] == RBF_2_AT_10
        assert names[3] == "polynomial constant 1 degree 2, weight x 10"

    def test_the_kernels_alone_where_weights_do_not_matter(self, tmp_path):
        trials = kernel_trials(arguments(tmp_path, balance="gradient"))
        assert [trial.weight_factor for trial in trials] == [1, 1, 1, 1]
        assert len({trial.kernel for trial in trials}) == 4

    def test_settle_what_was_left_open(self, tmp_path):
        set_kernel = ['clip_ktd.kernel={"name": "linear"}', "clip_ktd.weight=3"]
        args = arguments(tmp_path, ktd_weight=7.0, kd_weight=2.0, objective_options=set_kernel)
        tokens, clips, logits = objectives = objectives_for(args)
        assert is_kernel_open(args, objectives)
        kernel_trials(args)[5].settle(objectives)
        assert tokens.kernel == TokenKernel("rbf", gamma=2.0) and tokens.weight == 70
        assert clips.kernel == TokenKernel("linear") and clips.weight == 3
        assert logits.weight == 2
        assert not is_kernel_open(args, objectives)

    def test_nothing_to_choose(self, tmp_path):
        named = arguments(tmp_path, ktd_kernel="rbf")
        without = arguments(tmp_path, objective=["kd"])
        assert not any(is_kernel_open(args, objectives_for(args)) for args in (named, without))


class TestChoice:
    def test_the_best_on_validation(self, tmp_path):
        """Two are equal by the metric that decides; the second one decides between them."""
        args = arguments(tmp_path)
        known = {RBF_2_AT_10: (0.8, 0.9), "linear, weight x 1": (0.8, 0.7)}
        best, scores = choose_kernel(args, lambda trial, _: known.get(trial.name, (0.5, 1.0)))
        assert best.name == RBF_2_AT_10
        assert scores.keys() == {trial.name for trial in kernel_trials(args)} and scores[best.name] == [0.8, 0.9]
        assert json.loads((tmp_path / TRIALS_NAME).read_text()) == scores

    def test_trials_are_runs_like_the_run_itself_but_told_nowhere(self, tmp_path):
        args = arguments(tmp_path, max_steps=7, seed=5)
        seen = []
        choose_kernel(args, lambda _, trial: seen.append(trial) or (0.0, 0.0))
        assert len({trial.output_dir for trial in seen}) == 8
        assert all(trial.output_dir.startswith(f"{tmp_path}/kernel_trials/") for trial in seen)
        assert all(
            (trial.max_steps, trial.seed, trial.push_to_hub, trial.report_to) == (7, 5, False, []) for trial in seen
        )
        assert args.output_dir == str(tmp_path)

    def test_an_interrupted_choice_goes_on(self, tmp_path):
        def until(number, done):
            def score(trial, args):
                if len(done) == number:
                    (tmp_path / "kernel_trials" / "4" / "checkpoint-2").mkdir(parents=True)
                    raise KeyboardInterrupt
                done.append(trial.name)
                return len(done), 0.0

            return score

        first, rest, again = [], [], []
        with pytest.raises(KeyboardInterrupt):
            choose_kernel(arguments(tmp_path), until(3, first))
        resumed = arguments(tmp_path, resume_from_checkpoint="last")
        seen = []

        def score(trial, args):
            seen.append((args.resume_from_checkpoint, args.output_dir))
            return until(99, rest)(trial, args)

        best, scores = choose_kernel(resumed, score)
        assert len(first) == 3 and len(rest) == 5 and not set(first) & set(rest)
        assert seen[0] == ("last", f"{tmp_path}/kernel_trials/4")
        assert best.name == rest[-1] and scores[first[2]] == [3, 0.0]
        assert not (tmp_path / "kernel_trials").exists()
        # without --resume_from_checkpoint a run starts anew
        choose_kernel(arguments(tmp_path), until(99, again))
        assert len(again) == 8


class TestRefusals:
    def test_no_clip_to_choose_on(self):
        data = SimpleNamespace(features={"train": [1], "validation": []}, args=SimpleNamespace(dataset="clips.csv"))
        with pytest.raises(
            ValueError, match=r"validation split, of which clips\.csv has no usable clip.*Name a kernel"
        ):
            check_kernel_trials(data)

    @pytest.mark.parametrize("backend", ["FSDP", "DEEPSPEED"])
    def test_a_teacher_that_is_sharded(self, monkeypatch, backend):
        data = SimpleNamespace(features={"validation": [1]})
        check_kernel_trials(data)
        monkeypatch.setenv(f"ACCELERATE_USE_{backend}", "true")
        with pytest.raises(ValueError, match=f"which {backend} would shard anew"):
            check_kernel_trials(data)
