"""`python -m mezzotint` is the command line."""

import sys

from .cli import main

sys.exit(main())
