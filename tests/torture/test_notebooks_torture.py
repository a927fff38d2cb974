"""The notebooks run top to bottom in a kernel of their own, as in Jupyter."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytestmark = pytest.mark.torture

REPOSITORY = Path(__file__).resolve().parents[2]
# what the last cell, and the tables, must have said
EXPECTED = {
    "getting_started": ["| EM-KTD + KD |", "the clip shows digit", "visual  entropy ", "em_ktd      pairs of tokens"],
    "encoders_and_export": ["| onnx-int8 |", "int8 [[{'label': 'digit", "runs/small-student/report.html"],
}


def said(cells) -> str:
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    texts = [output.get("text") or output.get("data", {}).get("text/markdown", "") for output in outputs]
    return "\n".join(texts)


@pytest.mark.parametrize("name", EXPECTED)
def test_runs_top_to_bottom(name, tmp_path, monkeypatch):
    for folder in ("scripts", "docs"):
        (tmp_path / folder).symlink_to(REPOSITORY / folder)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for variable, value in {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(variable, value)
    notebook = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4)
    where = {"metadata": {"path": str(tmp_path / "notebooks")}}
    nbclient.NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=where).execute()
    text = said(notebook.cells)
    assert all(part in text for part in EXPECTED[name]), text[-3000:]
