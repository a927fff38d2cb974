from __future__ import annotations

import pytest
from safetensors.torch import save_file
from torch import ones, zeros

from hf_emktd.benchmark.runs import Run, check_typed_options, digest, digest_of_weights, joined, slug


def test_lists_of_all_groups_are_put_together():
    typed = ["--student_fields", "depth=2", "--learning_rate", "1e-3", "--objective_options=at.weight=5"]
    row = ["--student_fields", "image_size=16", "--ktd_kernel", "linear", "--objective_options", "at.branches=[]"]
    assert joined(typed, row, objectives=["at"]) == (
        *("--learning_rate", "1e-3", "--ktd_kernel", "linear"),
        *("--student_fields", "depth=2", "image_size=16"),
        *("--objective_options", "at.weight=5", "at.branches=[]"),
    )


def test_options_of_other_objectives_are_left_out():
    assert joined(["--objective_options", "at.weight=5", "kd.weight=1"], objectives=["kd"]) == (
        "--objective_options",
        "kd.weight=1",
    )
    assert joined(["--objective_options", "at.weight=5", "--bf16"], ["--student_fields"], objectives=[]) == ("--bf16",)


@pytest.mark.parametrize("options", [["--seed", "1"], ["--bf16", "--output_dir=x"], ["--objective", "kd"]])
def test_what_the_benchmark_says_may_not_be_typed(options):
    with pytest.raises(ValueError, match="differs between the runs of a benchmark"):
        check_typed_options(options)


def test_typed_options_of_unknown_objectives_are_refused():
    check_typed_options(["--objective_options", "kd.temperature=2"])
    with pytest.raises(ValueError, match=r"att.weight=2: there is no such objective; known: kd, "):
        check_typed_options(["--objective_options", "att.weight=2"])


def test_names_of_folders():
    assert slug("EM-KTD + KD, half the picture") == "em-ktd_kd-half-the-picture"
    assert digest(["a"], 1) == digest(["a"], 1) != digest(["a", 1])


def test_models_are_told_apart_by_their_weights(tmp_path):
    digests = []
    for name, tensor in (("a", ones(2)), ("b", zeros(2)), ("c", ones(2))):
        (tmp_path / name).mkdir()
        save_file({"x": tensor}, tmp_path / name / "model.safetensors")
        digests.append(digest_of_weights(tmp_path / name))
    assert digests[0] == digests[2] != digests[1]
    assert digest_of_weights("org/model") == "org/model"


def test_the_end_of_a_log_without_bars_that_were_overwritten(tmp_path):
    run = Run("KD", tmp_path / "distill.py", (), tmp_path)
    assert run.last_lines() == "(it has no log)"
    (tmp_path / "log.txt").write_text("start\n 10%|#\r 50%|##\r100%|###\n\nValueError: no\n")
    assert run.last_lines(2) == "100%|###\nValueError: no"
