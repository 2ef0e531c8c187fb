"""A stand-in's log level: the nearest of its program."""

# SPDX-License-Identifier: GPL-3.0-or-later

import pathlib
import subprocess

import pytest

FILES = pathlib.Path(__file__).parents[3] / "roles/unikernel_images/files/standin"


@pytest.mark.parametrize(
    ("level", "word"),
    [("", "warn"), ("quiet", "emerg"), ("error", "error"), ("warning", "warn"), ("info", "info"), ("debug", "debug")],
)
def test_a_level_is_the_nearest_of_nginx(level, word):
    script = (FILES / "service-web").read_text() + '\nlevel="$1"\nnginx_level'
    done = subprocess.run(["sh", "-c", script, "sh", level], capture_output=True, text=True, check=True)
    assert done.stdout == f"{word}\n"
