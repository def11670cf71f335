"""`python -m minclip_kernels.bench` is `minclip bench loss` without minclip."""

import argparse
import sys

from minclip_kernels.bench import command

if __name__ == "__main__":
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=command.DESCRIPTION, formatter_class=formatter)
    command.add_arguments(parser)
    try:
        sys.exit(command.run(parser.parse_args()))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
