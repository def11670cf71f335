"""Runs lessons and writes their notebooks, with outputs: python lessons/build.py [--refresh] [00 01 …] (default: all).

The .py file is what is written by hand; the notebook is made from it in a clean kernel. A maintainer runs this after
every change of a lesson; the tests call the same functions. `--refresh` runs nothing: it writes the texts and the first
two cells anew, and keeps the outputs of notebooks whose code is that of the .py file.
"""

import ast
import os
import re
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
    "00": 30, "01": 10, "02": 30, "03": 60, "04": 20, "05": 20, "06": 20, "07": 60, "08": 120, "09": 600, "10": 45,
    "11": 45, "12": 120, "13": 90, "14": 45, "15": 30, "16": 90, "17": 120, "18": 60, "19": 60, "20": 90, "21": 300,
}  # fmt: skip
# Without jupytext's pairing: JupyterLab would refuse to open a notebook that is newer than its .py file, as every one
# that was just built is, and would write a reader's attempts into the .py file.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# The first cell of every notebook. Packages that are installed now are found without a restart by their folders.
INSTALL = """\
# Installs minclip in Colab, and does nothing anywhere else.
import os
import subprocess
import sys

if "google.colab" in sys.modules and not os.path.exists("/content/{name}"):
    subprocess.run(["git", "clone", "--depth", "1", "{home}", "/content/{name}"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-e", "/content/{name}[lessons]"], check=True)
    sys.path[:0] = [f"/content/{name}/{{folder}}" for folder in ("lessons", "kernels", "")]
    os.chdir("/content/{name}/lessons")"""


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


def home() -> str:
    """The address of the project, in pyproject.toml."""
    found = re.search(
        r'^Homepage = "(.+)"$', (FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert found
    return found[1]


def with_badge(notebook: NotebookNode, source: Path) -> NotebookNode:
    """Puts two cells before a lesson: a link that opens it in Colab, and what installs minclip there."""
    path = home().removeprefix("https://github.com/")
    link = f"https://colab.research.google.com/github/{path}/blob/main/lessons/{source.stem}.ipynb"
    badge = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({link})"
    install = INSTALL.format(home=home(), name=path.rpartition("/")[2])
    first = nbformat.v4.new_markdown_cell(badge, id="colab-badge")
    second = nbformat.v4.new_code_cell(install, id="colab-install", metadata={"jupyter": {"source_hidden": True}})
    notebook.cells = [first, second, *notebook.cells]
    return notebook


def refresh(source: Path) -> bool:
    """Writes the notebook of a lesson with the outputs that it has; False if its code has changed and must run."""
    path = source.with_suffix(".ipynb")
    if not path.exists():
        return False
    old, new = nbformat.read(path, as_version=4), with_badge(read(source), source)
    ran = [cell for cell in old.cells if cell.cell_type == "code" and cell.id != "colab-install"]
    code = [cell for cell in new.cells if cell.cell_type == "code"]
    if [cell.source for cell in ran] != [cell.source for cell in code[1:]]:
        return False
    for cell, before in zip(code[1:], ran, strict=True):
        cell.outputs = before.outputs
    for count, cell in enumerate(code, start=1):
        cell.execution_count = count
    write(new, path)
    return True


def stubs(notebook: NotebookNode) -> dict[str, NotebookNode]:
    """The exercises of a lesson: name of the function or class -> the cell that holds nothing but its stub."""
    found = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "raise NotImplementedError" in cell.source:
            definitions = [
                node for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)
            ]
            found[definitions[-1].name] = cell
    return found


def solve(notebook: NotebookNode, number: str) -> NotebookNode:
    """Puts the solution in the place of every stub."""
    for name, cell in stubs(notebook).items():
        first = "# needs Triton\n" if cell.source.startswith("# needs Triton\n") else ""
        cell.source = f"{first}from solutions.lesson_{number} import {name}"
    return notebook


def run(notebook: NotebookNode, fast: bool = False, mine: Path | None = None) -> float:
    """Executes a notebook in place, from a clean kernel; returns the seconds. Raises CellExecutionError.

    `mine` is the folder of what was solved before; by default nothing was.
    """
    start = time.perf_counter()
    client = NotebookClient(notebook, timeout=None, record_timing=False, resources={"metadata": {"path": str(FOLDER)}})
    with TemporaryDirectory() as empty:
        client.execute(env={**os.environ, "MINCLIP_FAST": "1" if fast else "0", "MINCLIP_MINE": str(mine or empty)})
    return time.perf_counter() - start


def write(notebook: NotebookNode, path: Path) -> None:
    notebook.metadata = nbformat.from_dict(METADATA)  # without the versions of the machine that it ran on
    temporary = path.with_suffix(".tmp")
    nbformat.write(notebook, temporary)
    temporary.replace(path)


def main() -> None:
    chosen = [argument for argument in sys.argv[1:] if argument != "--refresh"] or list(BUDGET)
    for source in sources():
        number = source.name[:2]
        if number in chosen and "--refresh" in sys.argv:
            print(f"{source.stem}: {'refreshed' if refresh(source) else 'has other code, and must run'}")
        elif number in chosen:
            notebook = with_badge(read(source), source)
            seconds = run(notebook)
            write(notebook, source.with_suffix(".ipynb"))
            print(f"{source.stem}: {seconds:.0f} s of {BUDGET[number]}", flush=True)


if __name__ == "__main__":
    main()
