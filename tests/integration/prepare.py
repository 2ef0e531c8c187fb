"""Make the first runs on a plain machine and save them for the tests: python -m tests.integration.prepare."""

# SPDX-License-Identifier: GPL-3.0-or-later

import json

from tests import conftest  # noqa: F401 (it puts the collection on the path)

from .conftest import FIRST_RUNS, first_runs

if __name__ == "__main__":
    kept = {
        name: {"args": done.args, "returncode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        for name, done in first_runs().items()
    }
    FIRST_RUNS.write_text(json.dumps(kept))
