"""What make's commands do with finished steps, signals, two at once, and files that are not ours.
Toy notebooks in a folder of its own, whose name holds a blank and a letter outside ASCII. Started by `.ci/test.py`."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from calls import ROOT, call

WRITES = "from pathlib import Path; Path({path!r}).write_text('done')"
# a process of a kernel, as a training is; it does not listen to SIGTERM
SLEEPS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
WAITS = f"""import subprocess, sys
subprocess.run([sys.executable, '-c', {SLEEPS!r}, 'sleeper of {{path}}'])"""
START = """
import json, subprocess, sys
from pathlib import Path
sys.path.insert(0, {scripts!r})
from reproduce import Experiment, Step, carry_out

def run_cell(self, step, threads, prefix=""):
    cell = json.loads((self.notebooks/f"{{step.notebook}}.ipynb").read_text())["cells"][0]["source"]
    return subprocess.run([sys.executable, "-c", cell]).returncode

if {quick}: Experiment.start = run_cell
after_first = [Step(name, name, 5, (f"{{name}}.txt",), ("first",)) for name in {others!r}]
steps = [Step("first", "first", 5, ("first.txt",)), *after_first]
carry_out("reproduce", steps, runs=Path({runs!r}), notebooks=Path({notebooks!r}))
"""


def notebook(path, code):
    "A notebook of one cell"
    cell = dict(
        cell_type="code", id="one", metadata={}, source=code, outputs=[], execution_count=None
    )
    spec = dict(kernelspec=dict(name="python3", display_name="python3", language="python"))
    path.write_text(json.dumps(dict(cells=[cell], metadata=spec, nbformat=4, nbformat_minor=5)))


def command(folder, quick, others=("second",)):
    "What starts the toy experiment of a folder; a quick one runs cells without papermill, whose start takes seconds"
    text = START.format(
        scripts=str(ROOT / "scripts"),
        runs=str(folder / "runs"),
        notebooks=str(folder / "nbs"),
        quick=quick,
        others=others,
    )
    return [sys.executable, "-c", text]


def started(folder, quick):
    "The toy experiment, running"
    return subprocess.Popen(
        command(folder, quick),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finished(folder, **how):
    "Exit code and output of the toy experiment"
    return call(command(folder, **dict(quick=True) | how))


def sleepers(folder):
    "Processes that the second toy notebook started and that are still there"
    found = [
        p
        for p in psutil.process_iter(["cmdline"])
        if f"sleeper of {folder}" in " ".join(p.info["cmdline"] or [])
    ]
    return [p for p in found if p.status() != psutil.STATUS_ZOMBIE]


def until(happens, what, work, seconds=120):
    "Wait for something that a command does; where it does not come, show the command's processes and its output"
    end = time.time() + seconds
    while not happens():
        ended = work.poll() is not None
        if ended or time.time() > end:
            below = [] if ended else psutil.Process(work.pid).children(recursive=True)
            tree = "\n".join(f"{p.pid} {p.status()} {' '.join(p.cmdline())[:200]}" for p in below)
            work.terminate()
            out, _ = work.communicate(timeout=60)
            raise AssertionError(
                f"{what}: not within {seconds} s, exit code {work.returncode}\n{tree}\n{out}"
            )
        time.sleep(0.05)


def steps_are_passed_over(folder):
    "A finished step runs again only where its notebook, its results or a step before it changed"
    for name in ("first", "second"):
        notebook(
            folder / "nbs" / f"{name}.ipynb",
            WRITES.format(path=str(folder / "runs" / f"{name}.txt")),
        )
    code, out = finished(folder)
    assert (
        code == 0 and out.count("not run yet") == 2 and "2 of 2 steps to run, about 0:10" in out
    ), out
    began = time.time()
    code, out = finished(folder)
    assert code == 0 and out.count("passed over") == 2 and "to run" not in out, out
    took = time.time() - began
    assert took < 10, f"two finished steps took {took:.0f} s"
    (folder / "runs" / "second.txt").unlink()
    code, out = finished(folder)
    assert "first: finished" in out and "second: runs/second.txt is missing" in out, out
    notebook(
        folder / "nbs" / "first.ipynb",
        WRITES.format(path=str(folder / "runs" / "first.txt")) + " # another way",
    )
    code, out = finished(folder)
    assert (
        "first: first.ipynb has changed" in out and "second: a step before it has changed" in out
    ), out


def signals_end_all(folder):
    "Ctrl-C, SIGTERM and a closed terminal leave no process, and say what is left; a second start waits and is told"
    notebook(folder / "nbs" / "second.ipynb", WAITS.format(path=folder))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        quick = number == signal.SIGHUP
        work = started(folder, quick)
        # without papermill the cell itself is a command that names the sleeper
        want = 2 if quick else 1
        until(
            lambda want=want: len(sleepers(folder)) == want, "the second notebook's process", work
        )
        below = psutil.Process(work.pid).children(recursive=True)
        assert len(below) >= (2 if quick else 3), below  # papermill, kernel, sleeper
        if number == signal.SIGTERM:
            waits_its_turn(folder)
        began = time.time()
        work.send_signal(number)
        out, _ = work.communicate(timeout=60)
        assert work.returncode == 128 + number, (work.returncode, out)
        assert not [p for p in below if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], (
            "processes are left"
        )
        assert not sleepers(folder) and time.time() - began < 20, time.time() - began
        for words in (
            "stopped in second",
            "Finished and kept: first",
            "Go on with: make reproduce",
            "No process is left",
        ):
            assert words in out, out


def two_at_a_time(folder):
    "Steps that wait for the same one run beside each other, their lines told apart; a failed one ends the other"
    runs = folder / "runs"
    meets = """import os, time; from pathlib import Path
Path({mine!r}).write_text('here')
for _ in range(600): time.sleep(.05 * (not Path({other!r}).exists()))
print('saw the other:', Path({other!r}).exists(), 'threads', os.environ['OMP_NUM_THREADS'])"""
    names = ("left", "right")
    for name, other in (names, names[::-1]):
        mine, its = str(runs / f"{name}.txt"), str(runs / f"{other}.txt")
        notebook(folder / "nbs" / f"{name}.ipynb", meets.format(mine=mine, other=its))
    code, out = finished(folder, quick=False, others=names)
    assert code == 0, out
    threads = max(1, len(psutil.Process().cpu_affinity()) // 2)
    for name in names:
        assert f"{name} | saw the other: True threads {threads}" in out, out
    notebook(folder / "nbs" / "left.ipynb", "raise ValueError('no such thing')")
    notebook(folder / "nbs" / "right.ipynb", WAITS.format(path=folder))
    code, out = finished(folder, others=names)
    assert code == 1 and "left failed" in out and "Finished and kept: first" in out, out
    assert not sleepers(folder), sleepers(folder)


def waits_its_turn(folder):
    "Who comes second is told for whom he waits, and can leave"
    other = started(folder, quick=True)
    line = other.stdout.readline()
    other.send_signal(signal.SIGTERM)
    other.wait(30)
    assert "waiting: make reproduce (process" in line, line


def failures_are_told(folder):
    "A failed step, and a folder that cannot be written"
    notebook(folder / "nbs" / "second.ipynb", "raise ValueError('no such thing')")
    code, out = finished(folder)
    assert (
        code == 1
        and "no such thing" in out
        and "second failed (exit code 1): the reason stands above" in out
    ), out
    other = folder / "file in the way"
    other.mkdir()
    (other / "runs").write_text("a file")
    code, out = finished(other)
    assert (
        code == 1 and "runs/notebooks" in out and "mend that" in out and "Traceback" not in out
    ), out


def copy_of(folder):
    "A clone without an environment"
    clone = folder / "clone"
    clone.mkdir()
    for name in ("Makefile", "scripts", "settings.ini", "setup.py", "requirements.lock"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, clone / name)
    return clone


def make(clone, *words):
    "Exit code and output of a make command"
    return call(["make", *words], cwd=clone)


def nothing_of_the_users_goes(folder):
    "Set-up leaves an environment that it did not make, and cleaning what it does not know"
    clone = copy_of(folder)
    code, out = make(clone, "help")
    assert code == 0 and "make setup" in out and "make figures" in out, out
    for what in (".venv/notes.txt", ".venv/bin/python", ".venv/pyvenv.cfg"):
        file = clone / what
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.name == "python":
            file.symlink_to(sys.executable)
        else:
            file.write_text("mine")
        code, out = make(clone, "setup")
        assert (
            code
            and "not one that set-up made" in out
            and file.exists()
            and not (clone / ".setup.lock").exists()
        ), out
    shutil.rmtree(clone / ".venv")
    keeps = [
        "runs/own_bridge/mine.py",
        "runs/notebooks/mine.ipynb",
        "runs/tiny-mlp-1/model/notes.txt",
        "runs/smoke/mine.txt",
        "nbs/.ipynb_checkpoints/mine.ipynb",
        "dist/mine.txt",
        "runs/shared/corpus-mine/a.csv",
        "nbs/__pycache__/mine.txt",
        "elsewhere/__pycache__/a.pyc",
    ]
    goes = ["nbs/__pycache__/a.pyc", "scripts/__pycache__/b.pyc", "bench/__pycache__/c.pyc"]
    for name in keeps + goes:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text("x")
    (clone / "bench" / "linked").symlink_to(clone / "elsewhere")
    code, out = make(clone, "clean")
    assert (
        code == 0
        and not any((clone / n).exists() for n in goes)
        and all((clone / n).exists() for n in keeps)
    ), out
    assert "stays: runs/tiny-mlp-1" in out, out


def main():
    # nohup and shells in the background ignore these signals, and what is started here would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with tempfile.TemporaryDirectory(prefix="my clone ü ") as d:
        folder = Path(d).resolve()
        (folder / "nbs").mkdir()
        for check in (
            nothing_of_the_users_goes,
            steps_are_passed_over,
            signals_end_all,
            two_at_a_time,
            failures_are_told,
        ):
            began = time.time()
            check(folder)
            print(f"{check.__name__}: {time.time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
