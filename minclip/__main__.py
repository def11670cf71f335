"""`python -m minclip` is the command `minclip`."""

import sys

from minclip.cli import main

sys.exit(main())
