"""What all commands share. Standard library only: it runs before anything is set up."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this is what tells people with an older one
    sys.exit(
        "Failed: Torchroom needs Python 3.11 or later.\n"
        "Next:   name one: make PYTHON=python3.12 up"
    )
