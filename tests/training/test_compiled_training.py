"""A compiled student learns what the plain one learns, and bfloat16 what float32 learns up to rounding."""

from __future__ import annotations

import pytest
from tiny_runs import logged, make_trainer


def losses(folder, **options) -> list[float]:
    trainer = make_trainer(folder, max_steps=3, **options)
    trainer.train()
    return [line["loss"] for line in logged(trainer)]


# aot_eager traces forward and backward as the default backend does, and spares the minutes of a C++ compiler
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [({"torch_compile": True, "torch_compile_backend": "aot_eager"}, 1e-5), ({"bf16": True}, 1e-2)],
    ids=["compiled", "bf16"],
)
def test_losses_are_those_of_a_plain_run(tmp_path, options, tolerance):
    plain = losses(tmp_path / "plain")
    assert losses(tmp_path / "other", **options) == pytest.approx(plain, rel=tolerance)
