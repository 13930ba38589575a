"""The notebooks, from top to bottom, as a kernel runs them; and what is kept of them in the repository."""

from pathlib import Path

import mlflow
import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[3]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_BYTES = 1024 * 1024


def executed(name: str, folder: Path) -> nbformat.NotebookNode:
    """A cell that raises ends it, with that cell's traceback."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    place = folder / "notebooks"
    place.mkdir(exist_ok=True)
    NotebookClient(notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(place)}}).execute()
    return notebook


@pytest.fixture
def kernel(clean: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel that writes nothing into the home of whoever runs the tests."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(clean / name.lower()))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    return clean


def shown(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


def printed(notebook: nbformat.NotebookNode) -> str:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def test_the_data_is_explored(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAIN_DATA_PATH", "sample://transactions?rows=20000&seed=7")
    notebook = executed("01_data_exploration", kernel)
    assert "20,000 rows of sample://transactions?rows=20000&seed=7, sha256:" in printed(notebook)
    assert len(shown(notebook, "image/png")) == 6
    assert len(shown(notebook, "text/html")) == 5


def test_the_runs_of_mlflow_are_analysed_and_made_where_there_are_none(kernel: Path) -> None:
    for wanted in ("made", "found"):
        notebook = executed("02_model_analysis", kernel)
        assert "2 runs in fraud_detection at sqlite:///" in printed(notebook), wanted
        assert len(shown(notebook, "image/png")) == 4
    client = mlflow.MlflowClient(f"sqlite:///{kernel / 'm3' / 'mlflow.db'}")
    assert len(client.search_model_versions("name = 'fraud_detector'")) == 2
    first, second, _, _ = shown(notebook, "text/html")[:4]
    assert "random_forest" in first
    assert "logistic_regression" in first
    assert "recall" in second


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in cells] == [[]] * len(cells), (
        "clear them: jupyter nbconvert --clear-output --inplace"
    )
    assert {cell.execution_count for cell in cells} == {None}
    assert path.stat().st_size < MAX_BYTES
