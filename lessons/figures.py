"""Draws the small figures of README.md from the notebooks' own, and lists them there: python lessons/figures.py.

Each is one figure of a lesson, the one that carries its idea, 300 pixels wide and in 32 colours, so that all of them
together stay under 300 KB. Run it after notebooks were built, and look at the result.
"""

import base64
import io

import build
import nbformat
from PIL import Image

WIDTH = 300
# Lesson -> which of its figures, from 0; the largest one where none is named.
HERO = {"00": 1, "02": 2, "03": 2, "08": 3, "10": 0, "14": 0, "20": 8, "21": 1}


def figures(number: str) -> list[Image.Image]:
    """All figures of a notebook, in their order."""
    (path,) = build.FOLDER.glob(f"{number}_*.ipynb")
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    found = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return [Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for data in found]


def table() -> str:
    """The figures as a table of three columns, each of them a link to its notebook."""
    cells = [f"[![{source.stem}](figures/{source.name[:2]}.png)]({source.stem}.ipynb)" for source in build.sources()]
    rows = [cells[place : place + 3] for place in range(0, len(cells), 3)]
    lines = [f"| {' | '.join([*row, '', ''][:3])} |" for row in rows]
    return "\n".join([lines[0], "|---|---|---|", *lines[1:]]) + "\n"


def main() -> None:
    folder = build.FOLDER / "figures"
    folder.mkdir(exist_ok=True)
    for source in build.sources():
        number = source.name[:2]
        all_figures = figures(number)
        largest = max(range(len(all_figures)), key=lambda place: all_figures[place].width * all_figures[place].height)
        figure = all_figures[HERO.get(number, largest)]
        small = figure.resize((WIDTH, round(WIDTH * figure.height / figure.width)), Image.Resampling.LANCZOS)
        small.quantize(32).save(folder / f"{number}.png", optimize=True)
    readme = build.FOLDER / "README.md"
    before, start, rest = readme.read_text(encoding="utf-8").partition("<!-- figures -->\n")
    _, end, after = rest.partition("<!-- end -->")
    readme.write_text(before + start + table() + end + after, encoding="utf-8")


if __name__ == "__main__":
    main()
