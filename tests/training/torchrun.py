"""The training command with two learners side by side."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import REPOSITORY

SIZE = 2


def under_torchrun(*arguments: str) -> str:
    """Run `python -m training ARGUMENTS` as two processes that succeed; what they wrote to stderr."""
    output = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(SIZE)),
            *("-m", "training", *arguments),
        ],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert output.returncode == 0, output.stderr
    return output.stderr
