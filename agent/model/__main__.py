"""Command line of the networks: `python -m agent.model bench | count | parity | convert`, each with --help."""

import sys

from agent.model import bench, convert, cost, parity

COMMANDS = {
    "bench": (bench.main, "milliseconds per frame, part by part"),
    "count": (cost.main, "operations and bytes of a decision, and the least time on GPUs"),
    "parity": (parity.main, "compare the encoder with recorded outputs of the official one"),
    "convert": (convert.main, "turn official .pth files into safetensors"),
}


def main(arguments: list[str]) -> int:
    """Exit code of a command."""
    if arguments and arguments[0] in COMMANDS:
        return COMMANDS[arguments[0]][0](arguments[1:])
    asked = bool(arguments) and arguments[0] in ("-h", "--help")
    out = sys.stdout if asked else sys.stderr
    print("usage: python -m agent.model COMMAND ...", file=out)
    for name, (_, purpose) in COMMANDS.items():
        print(f"  {name:8} {purpose}", file=out)
    return 0 if asked else 2


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
