from __future__ import annotations

import pytest
import tiny_runs
from report_runs import LOG

from hf_emktd.report.curves import (
    Curve,
    draw_losses,
    draw_validation,
    draw_weights,
    loss_curves,
    read_curves,
    zero_parts,
)
from hf_emktd.report.pictures import to_svg


def test_what_was_logged():
    curves = read_curves([*LOG, {"epoch": 3.0, "loss": float("nan")}, {"loss": 9.0}])
    assert curves["loss"] == Curve([1.0, 2.0], [3.0, 1.5])
    assert curves["weight_audio"] == Curve([2.0], [0.75]) and curves["eval_accuracy"] == Curve([1.0], [0.25])
    assert "train_loss" not in curves and "step" not in curves


def test_what_a_trainer_logs(tmp_path):
    trainer = tiny_runs.make_trainer(tmp_path)
    trainer.train()
    curves = read_curves(trainer.state.log_history)
    branches = ("audio", "visual", "fusion")
    parts = {"loss_task", "loss_kd", *(f"loss_em_ktd_{branch}" for branch in branches)}
    assert loss_curves(curves).keys() == {"loss"} | parts
    assert {f"weight_{branch}" for branch in branches} <= curves.keys()
    sums = [sum(values) for values in zip(*(curves[name].values for name in parts), strict=True)]
    assert sums == pytest.approx(curves["loss"].values, rel=1e-4) and len(sums) == 2
    assert len(draw_weights(curves).axes[0].lines) == 3


def test_parts_that_are_zero_have_no_place_on_a_logarithm():
    curves = read_curves(LOG)
    assert list(loss_curves(curves)) == ["loss", "loss_em_ktd_audio", "loss_task"]
    assert zero_parts(curves) == ["auxiliary"]


def test_lines_are_the_logged_numbers():
    curves = read_curves(LOG)
    axis = draw_losses(curves).axes[0]
    drawn = {line.get_label(): line.get_ydata().tolist() for line in axis.lines}
    assert drawn == {"sum": [3.0, 1.5], "em_ktd_audio": [2.0, 1.0], "task": [1.0, 0.5]}
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_yscale()) == ("epoch", "loss", "log")
    validation = draw_validation(curves).axes[0]
    assert validation.lines[0].get_ydata().tolist() == [25.0] and "%" in validation.get_ylabel()


def test_what_was_not_logged_is_not_drawn():
    curves = read_curves([{"epoch": 1.0, "loss": 1.0}])
    assert draw_weights(curves) is None and draw_validation(curves) is None
    with pytest.raises(ValueError, match="nothing was logged"):
        read_curves([{"train_runtime": 1.0, "epoch": 1.0}])


def test_names_are_text_whatever_they_hold():
    curves = read_curves([{"epoch": 1.0, "loss": 1.0, "loss_$x^{2$<b>%s\x1b[31m": 2.0, "loss__": 1.0}])
    svg = to_svg(draw_losses(curves), "hostile")
    assert "$x^{2$&lt;b&gt;%s\N{REPLACEMENT CHARACTER}[31m" in svg and "<b>" not in svg
