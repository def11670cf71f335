"""The commands of the command line: each module has a DESCRIPTION, `add_arguments(parser)` and `run(arguments)`.

`run` returns the exit code: 0, or 1 if only a part of the work could be done.
"""

import argparse
import importlib
from collections.abc import Mapping
from typing import Any

COMMANDS = {
    "train": ("minclip.commands.train", "train a model from scratch"),
    "eval": ("minclip.commands.eval", "score a model on pictures that it has never seen"),
    "classify": ("minclip.commands.classify", "find the label that fits a picture best"),
    "search": ("minclip.commands.search", "find the pictures that fit a text best"),
    "duplicates": ("minclip.commands.duplicates", "find pictures that show nearly the same thing"),
    "inspect": ("minclip.commands.inspect", "look at data before a training, or at a run after it"),
    "probe": ("minclip.commands.probe", "measure what a model's features know about classes"),
    "export": ("minclip.commands.export", "put a model into one small file"),
    "bench": (
        "minclip.commands.bench",
        "measure the losses, a training step, the tokenizer and transfer",
    ),
}


class CommandParser(argparse.ArgumentParser):
    """The parser of one command; it imports the command's module only if that command was chosen."""

    def __init__(self, module: str, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self.module = module

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        command = importlib.import_module(self.module)
        self.description = command.DESCRIPTION
        self.set_defaults(run_command=getattr(command, "run", None))
        command.add_arguments(self)
        return super().parse_known_args(args, namespace)


def add_commands(parser: argparse.ArgumentParser, commands: Mapping[str, tuple[str, str]]) -> None:
    """Let `parser` choose among commands, given as name: (module, summary)."""
    choices = parser.add_subparsers(required=True, metavar=" | ".join(commands), parser_class=CommandParser)
    for name, (module, summary) in commands.items():
        choices.add_parser(name, module=module, help=summary)
