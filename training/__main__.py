"""Command line of the training folder: collect data, train, export weights, time an update."""

from __future__ import annotations

import sys

INTERRUPTED = 130


def main() -> int:
    """Run the command line; gives the exit code."""
    try:  # around the imports, too: they take seconds, in which Ctrl-C should end as quietly as later
        from training.commands import line

        return line.main()
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
