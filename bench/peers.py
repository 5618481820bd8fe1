"""Where the packages that benchmarks compare with are: `.venv-bench`, which `make bench-env` fills from
bench/requirements.txt. What both environments hold has the same version.
"""

import sys
from pathlib import Path

ENVIRONMENT = Path(__file__).resolve().parent.parent / ".venv-bench"
MISSING = "run `make bench-env` first"


def add_peers(needed=True):
    "Let this process import peers, behind its own packages; it ends where they are needed and not there"
    found = sorted(map(str, ENVIRONMENT.glob("lib/python3*/site-packages")))
    if needed and not found:
        sys.exit(f"no {ENVIRONMENT.name}: {MISSING}")
    sys.path += found


def peer_program(name):
    "The path of a program of the peers', such as python; this process ends where it is not there"
    path = ENVIRONMENT / "bin" / name
    if not path.exists():
        sys.exit(f"no {name} in {ENVIRONMENT.name}: {MISSING}")
    return path
