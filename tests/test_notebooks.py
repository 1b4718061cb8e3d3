"""Every notebook runs from top to bottom, offline."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Jupyter's own
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [out for cell in notebook.cells for out in cell.get("outputs", []) if "text/html" in out.get("data", {})]
    assert any("data:image/jpeg" in out["data"]["text/html"] for out in shown)


def test_the_quickstart_is_under_ten_lines_of_our_api():
    (notebook,) = [nbformat.read(path, as_version=4) for path in NOTEBOOKS if path.stem == "quickstart"]
    lines = [
        line
        for cell in notebook.cells
        if cell.cell_type == "code" and "ve.show" in cell.source
        for line in cell.source.splitlines()
        if line.strip()
    ]
    assert 0 < len(lines) < 10
