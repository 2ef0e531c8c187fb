"""Tests import the collection from the checkout, under its real name."""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / ".collections"))

try:
    from hypothesis import HealthCheck, settings

    # Never let time fail a test: the machines that run it are shared. And never let chance: `make test` tries the same inputs
    # each time, so that what turns it red is the change; `make test-all` tries others each time (RANDOM_INPUTS=1).
    settings.register_profile(
        "shared",
        deadline=None,
        derandomize=not os.environ.get("RANDOM_INPUTS"),
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("shared")
except ImportError:  # the other stages don't need hypothesis
    pass
