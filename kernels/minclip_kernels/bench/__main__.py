"""`python -m minclip_kernels.bench` is `minclip bench loss` without minclip."""

import sys

from minclip_kernels.bench import command

if __name__ == "__main__":
    sys.exit(command.main(command.DESCRIPTION, command.add_arguments, command.run))
