"""`python -m minclip_kernels.bench` is `minclip bench loss` without minclip."""

import argparse
import sys

from minclip_kernels.bench import command


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m minclip_kernels.bench",
        description=command.DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    try:
        return command.run(parser.parse_args())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
