"""`equipoise` in tests: within the test's process, where importing JAX anew would take seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from unittest.mock import patch

import pytest

from equipoise.cli import main

Done = subprocess.CompletedProcess[str]
#: A network that is learned in seconds, and how `train` is told of it.
TINY = {"width": 16, "heads": 1, "layers": 1, "head_hidden": 16, "block": 64, "max_steps": 60}
SET_TINY = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]


def cli(*arguments: object) -> Done:
    """Run a verb in this process; what would be a traceback fails the test."""
    out, err = StringIO(), StringIO()
    asked = patch.object(sys, "argv", ["equipoise", *map(str, arguments)])
    with asked, redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
        main()
    assert isinstance(end.value.code, int)
    return Done(arguments, end.value.code, out.getvalue(), err.getvalue())


def start(*arguments: object, **env: str) -> subprocess.Popen[str]:
    """Start a verb in a process of its own."""
    command = [sys.executable, "-m", "equipoise", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env={**os.environ, **env}, **pipes)


def cli_process(*arguments: object, **env: str) -> Done:
    """Run a verb in a process of its own, as users do."""
    process = start(*arguments, **env)
    said, complained = process.communicate()
    return Done(arguments, process.returncode, said, complained)
