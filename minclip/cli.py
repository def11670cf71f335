"""The command line: minclip train | eval | classify | search | duplicates | inspect | probe | export | bench.

Exit codes: 0 done; 1 some input was wrong, as a message on standard error says; 2 the command was not understood; 130
interrupted.
"""

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence

from minclip import __version__
from minclip.commands import COMMANDS, add_commands

DESCRIPTION = "CLIP from scratch: train a model that puts pictures and texts into one space, and query it."
EXAMPLES = """the first fifteen minutes:
  minclip train                                            learns from emoji and their names, in minutes
  minclip eval                                             matches 400 emoji that it has never seen with 400 captions
  minclip search "red heart" --plot                        the pictures nearest to a text
  minclip classify cat.png --labels cat dog horse other    the nearest of your labels to a picture

Each command explains itself: minclip train --help"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minclip",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"minclip {__version__}")
    add_commands(parser, COMMANDS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    # A terminal or pipe that cannot show a letter shows "?" instead of stopping the command.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
            return arguments.run_command(arguments)
    except BrokenPipeError:
        # A reader of our output, such as `head`, has read enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        return _fail(str(error))
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        return _fail(f"out of memory: try a smaller --batch-size or --model ({error})")
    except KeyboardInterrupt as interrupt:
        print(f"minclip: {interrupt or 'interrupted'}", file=sys.stderr)
        return 130


def _fail(message: str) -> int:
    print(f"minclip: error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
