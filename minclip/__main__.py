"""`python -m minclip`: the same as the command `minclip`."""

import sys

from minclip.cli import main

sys.exit(main())
