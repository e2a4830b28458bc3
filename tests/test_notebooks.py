"""Does the notebook suite check what it says? nbval compares no output of a cell without a count, and none at all without marked cells."""
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks_and_make_test_runs_all():
    assert NOTEBOOKS
    assert "--nbval-lax" in (ROOT / "Makefile").read_text() and " notebooks\n" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebook_is_executed_and_checked(path):
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "restart the kernel and run all"
    checked = [cell for cell in code if "# NBVAL_CHECK_OUTPUT" in "".join(cell["source"]).splitlines()]
    assert len(checked) >= 4 and all(cell["outputs"] for cell in checked)
    assert len(checked) == sum("NBVAL_CHECK_OUTPUT" in "".join(cell["source"]) for cell in code), "nbval passes over a mark that shares its line"
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for cell in code for output in cell["outputs"])
    assert "widgets" not in notebook["metadata"] and path.stat().st_size <= 300 * 1024
