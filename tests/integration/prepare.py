"""Make the first runs on a plain machine and save them for the tests: python -m tests.integration.prepare."""

# SPDX-License-Identifier: GPL-3.0-or-later

import json
import subprocess

from tests import (
    conftest,  # noqa: F401 (it puts the collection on the path)
    preloaded,
)

from .conftest import FIRST_RUNS, Dom0, first_runs

if __name__ == "__main__":
    kept = {
        name: {"args": done.args, "returncode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        for name, done in first_runs().items()
    }
    FIRST_RUNS.write_text(json.dumps(kept))
    # Before the machine is saved: on two machines at once, with tests on both, it takes each of them two minutes.
    try:
        preloaded.install(Dom0().command)
    except (AssertionError, subprocess.SubprocessError) as error:
        print(f"left to the tests, which install it where it is missing: {error}")
