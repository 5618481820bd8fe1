"""One way to run a command and see what came of it, for the checks of this folder."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def call(command, cwd=ROOT, limit=None, shell=False, **env):
    """Exit code and output (stdout and stderr together) of a command, which gets no input.
    One that takes longer than `limit` seconds has code 124, and its output ends by saying so."""
    try:
        done = subprocess.run(
            command if shell else [str(word) for word in command],
            cwd=cwd,
            env=os.environ | env,
            shell=shell,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit,
        )
    except subprocess.TimeoutExpired as e:
        return 124, (e.stdout or b"").decode(errors="replace") + f"\nstopped after {limit} s"
    return done.returncode, done.stdout
