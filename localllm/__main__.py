"""`python -m localllm`: the command line, for a Python whose scripts folder is not on the PATH."""

from __future__ import annotations

import sys

from localllm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
