"""Runs lessons and writes their notebooks, with outputs: python lessons/build.py [00 01 …] (default: all).

The .py file is what is written by hand; the notebook is made from it in a clean kernel. A maintainer runs this after
every change of a lesson; the tests call the same functions.
"""

import ast
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
# What a lesson may take on two CPU cores, in seconds: the nightly run keeps to it.
BUDGET = {
    "00": 30, "01": 10, "02": 15, "03": 60, "04": 20, "05": 20, "06": 15, "07": 15, "08": 120, "09": 600, "10": 45,
    "14": 45, "15": 30, "16": 90, "17": 120, "19": 60, "20": 90,
}  # fmt: skip
# Without jupytext's pairing: JupyterLab would refuse to open a notebook that is newer than its .py file, as every one
# that was just built is, and would write a reader's attempts into the .py file.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def sources() -> list[Path]:
    """The lessons' .py files, in order."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def read(source: Path) -> NotebookNode:
    """The notebook of a lesson without outputs; its cells are named by their places, so that diffs stay small."""
    notebook = jupytext.read(source)
    notebook.metadata = nbformat.from_dict(METADATA)
    for place, cell in enumerate(notebook.cells):
        cell.id = f"cell-{place}"
    return notebook


def stubs(notebook: NotebookNode) -> dict[str, NotebookNode]:
    """The exercises of a lesson: name of the function -> the cell that holds nothing but its stub."""
    found = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "raise NotImplementedError" in cell.source:
            functions = [node for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef)]
            found[functions[-1].name] = cell
    return found


def solve(notebook: NotebookNode, number: str) -> NotebookNode:
    """Puts the solution in the place of every stub."""
    for name, cell in stubs(notebook).items():
        first = "# needs Triton\n" if cell.source.startswith("# needs Triton\n") else ""
        cell.source = f"{first}from solutions.lesson_{number} import {name}"
    return notebook


def run(notebook: NotebookNode, fast: bool = False) -> float:
    """Executes a notebook in place, from a clean kernel; returns the seconds. Raises CellExecutionError."""
    start = time.perf_counter()
    client = NotebookClient(notebook, timeout=None, record_timing=False, resources={"metadata": {"path": str(FOLDER)}})
    with TemporaryDirectory() as mine:  # as for a reader who has solved nothing yet
        client.execute(env={**os.environ, "MINCLIP_FAST": "1" if fast else "0", "MINCLIP_MINE": mine})
    return time.perf_counter() - start


def write(notebook: NotebookNode, path: Path) -> None:
    notebook.metadata = nbformat.from_dict(METADATA)  # without the versions of the machine that it ran on
    temporary = path.with_suffix(".tmp")
    nbformat.write(notebook, temporary)
    temporary.replace(path)


def main() -> None:
    chosen = sys.argv[1:] or list(BUDGET)
    for source in sources():
        number = source.name[:2]
        if number in chosen:
            notebook = read(source)
            seconds = run(notebook)
            write(notebook, source.with_suffix(".ipynb"))
            print(f"{source.stem}: {seconds:.0f} s of {BUDGET[number]}", flush=True)


if __name__ == "__main__":
    main()
