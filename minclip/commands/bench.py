"""`minclip bench`: what is measured, and how the measurements of minclip itself are reported."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minclip_kernels.bench.records import environment, write_json
from minclip_kernels.bench.report import align

from minclip.commands import add_commands

DESCRIPTION = "Measure the losses, a training step and the tokenizer beside those of other projects, and transfer."
MEASURED = {
    "loss": ("minclip_kernels.bench.command", "time and peak memory of the contrastive losses"),
    "first-hour": ("minclip_kernels.bench.first_hour", "the first hour with a new GPU, in ten minutes"),
    "train": ("minclip.commands.bench_train", "images per second of a training step, beside open_clip"),
    "artists": ("minclip.commands.bench_artists", "drawings by an artist who was left out of training"),
    "tokenizer": ("minclip.commands.bench_tokenizer", "tokens per second, beside SimpleTokenizer and Hugging Face"),
}
NEEDS_OPEN_CLIP = "minclip bench {} compares with open_clip, which is not installed: pip install open_clip_torch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_commands(parser, MEASURED)


def report(rows: Sequence[dict[str, Any]], device: str, out: Path) -> None:
    """Print the rows as a table, and write them to `out` as JSON with a description of the machine."""
    print(align([list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]))
    out.parent.mkdir(parents=True, exist_ok=True)
    packages = "minclip", "open_clip_torch", "transformers", "tokenizers", "ftfy", "regex", "emoji"
    write_json(out, {"environment": environment(device, packages, Path(__file__).parents[1]), "rows": list(rows)})
    print(out)


def _cell(value: Any) -> str:
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:,.1f}" if value < 1000 and isinstance(value, float) else f"{value:,.0f}"
