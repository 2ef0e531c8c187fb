"""What tests of images have in common."""

import subprocess

import pytest

from .builds import Bench
from .signers import all_keys, keys  # noqa: F401
from .stores import Controller


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@pytest.fixture
def no_process(monkeypatch):
    def refuse(*_arguments, **_named):
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)


@pytest.fixture
def controller(tmp_path, keys):  # noqa: F811
    return Controller(tmp_path, keys)
