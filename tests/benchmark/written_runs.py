"""Runs that have ended, without anything having run."""

from __future__ import annotations

import json
from typing import Any

from hf_emktd.benchmark.runs import Run


def write_run(run: Run, results: dict[str, Any], teacher: dict[str, Any], **record: Any) -> None:
    """Leaves in the run's folder what distill.py and the process around it do: two epochs in 20 seconds."""
    run.folder.mkdir(parents=True)
    history = [{"epoch": 1.0, "eval_accuracy": 0.5}, {"epoch": 2.0, "eval_accuracy": 0.7}, {"epoch": 2.0, "loss": 1}]
    files = {
        "results.json": {"results": results, "teacher_results": teacher, "seconds": 20.0},
        "trainer_state.json": {"log_history": history},
        "distillation.json": {
            "command": f"python scripts/distill.py {' '.join(run.command)}",
            "data": {"manifest_hash": "0123456789abcdef"},
            "environment": {"torch": "2.12"},
            "student": {"parameters": 22778},
            "teacher": {"parameters": 376394},
        },
        "run.json": {"seconds": 25.0, "code": "abc", "threads": 1, "device": "cpu", "peak_memory": 5e8} | record,
    }
    for name, content in files.items():
        (run.folder / name).write_text(json.dumps(content))
