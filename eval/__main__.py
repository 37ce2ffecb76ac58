"""`python -m eval run | demo | report | view | routes | score | compare | looks | golden | soak | doctor`."""

from __future__ import annotations

import sys

EXIT_INTERRUPTED = 130


def main() -> int:
    """Run the command line; gives the exit code."""
    try:  # around the imports, too: they take seconds, in which Ctrl-C should end as quietly as later
        if sys.argv[1:2] == ["doctor"]:  # before the imports that it is there to check
            from eval import doctor

            return doctor.main(sys.argv[2:])
        from eval import commands

        return commands.main()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
