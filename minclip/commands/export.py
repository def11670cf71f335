"""`minclip export`: a model in one small file."""

import argparse
from dataclasses import replace
from pathlib import Path

from minclip import formats
from minclip.commands.common import add_run, chosen_run

DESCRIPTION = """Put a model into one file: weights in float16, tokenizer, and the options of its training.

  minclip export cat.safetensors
  minclip search "red heart" --run cat.safetensors

In Python: minclip.load("cat.safetensors"). If the model was trained on your own pictures, the options name their
folder."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a new file; nothing is written over")
    match = "lowest cosine that counts as a match, stored for --reject; `minclip eval` on an unseen artist proposes one"
    parser.add_argument("--match", type=float, metavar="COSINE", help=match)
    add_run(parser)


def run(arguments: argparse.Namespace) -> int:
    path = chosen_run(arguments)
    saved = formats.read(path)
    if arguments.match is not None:
        saved = replace(saved, match=arguments.match)
    formats.write_export(saved, arguments.file)
    print(f"{path} -> {arguments.file}: {Path(arguments.file).stat().st_size / 1e6:.1f} MB")
    return 0
