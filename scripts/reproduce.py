"""Runs the experiment, notebook by notebook; started by `make reproduce`, `make experiments` and `make figures`.
A step that is finished, and whose code, notebook, parameters and results are unchanged, is passed over."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from processes import end_children, on_stop

ROOT = Path(__file__).resolve().parent.parent
NEED_GB = 3
ARCHS = ("text", "mlp", "perceiver", "flamingo", "blind")


@dataclass(frozen=True)
class Step:
    "One notebook with its parameters"

    name: str  # What the executed notebook is called
    notebook: str  # Its name below nbs/
    typical: int  # Seconds on two CPU cores with AVX-512, until they are measured here
    makes: tuple  # Patterns of the files below runs/ that must be there afterwards; none: it is never passed over
    after: tuple = ()  # Steps whose results it reads
    parameters: dict = field(default_factory=dict)


TRAINED = tuple(f"03_train-{arch}" for arch in ARCHS)
SCORES = ("comparison-*/tables/*", "tiny-*/evaluation-*/*")
FIGURES = dict(folder="runs/figures", report="runs/report")
LARGE = dict(steps=1_000, folder="runs/experiments/figures", report="runs/experiments/report")


def train_step(arch):
    "The training of one arm"
    makes = (f"tiny-{arch}-*/trained.json", f"tiny-{arch}-*/model/**/*")
    return Step(f"03_train-{arch}", "03_train", 105, makes, ("02_encode",), dict(arch=arch))


STEPS = dict(
    reproduce=[
        Step("01_data", "01_data", 60, ("shared/corpus-*/*",)),
        Step("02_encode", "02_encode", 60, ("shared/features-*/*",), ("01_data",)),
        *[train_step(arch) for arch in ARCHS],
        Step("04_evaluate", "04_evaluate", 300, SCORES, TRAINED),
        Step("05_figures", "05_figures", 75, ("figures/*", "report/*"), ("04_evaluate",), FIGURES),
    ],
    experiments=[
        Step("experiments", "05_figures", 2_100, ("experiments/*/*",), (), LARGE),
        Step("experiments-seeds", "04_evaluate", 1_800, SCORES, (), dict(n_seeds=3)),
        Step("experiments-exact", "04_evaluate", 1_500, SCORES, (), dict(split="exact")),
    ],
    figures=[
        Step("figures", "05_figures", 75, (), (), dict(folder="figures", report="runs/report"))
    ],
)


def clock(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def sha256(parts):
    "Digest of names and bytes"
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()


def inputs_digest():
    "Digest of the package, the manifests, the files that are shipped, and the environment's lock"
    files = [ROOT / "requirements.lock"]
    for folder, pattern in (
        ("protein_llm", "**/*.py"),
        ("data_manifests", "*.json"),
        ("assets", "**/*"),
    ):
        files += sorted(p for p in (ROOT / folder).glob(pattern) if p.is_file())
    return sha256(part for f in files for part in (f.name.encode(), f.read_bytes()))


def notebook_digest(path):
    "Digest of a notebook's cells; what they printed does not count"
    cells = json.loads(path.read_text())["cells"]
    return sha256("".join(c["source"]).encode() for c in cells)


def read_json(path):
    "A JSON file of ours, or nothing where it is not there or was cut short"
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}


def write_json(path, value):
    "Whole or not at all"
    part = path.with_name(path.name + ".tmp")
    part.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(part, path)


class Experiment:
    "The steps of one command, and what is known of them on this machine"

    def __init__(self, command, steps, runs=ROOT / "runs", notebooks=ROOT / "nbs"):
        self.command, self.steps, self.runs, self.notebooks = command, steps, runs, notebooks
        self.kept, self.state = runs / "notebooks", runs / "reproduce"
        self.now, self.began, self.finished = None, time.time(), []
        for folder in (self.kept, self.state):
            folder.mkdir(parents=True, exist_ok=True)
        self.inputs = inputs_digest()

    def stamp(self, name):
        return read_json(self.state / f"{name}.json")

    def depends(self, step):
        "What a step's result depends on, in words, and the digest of each"
        finished = [self.stamp(name).get("finished") for name in step.after]
        notebook = notebook_digest(self.notebooks / f"{step.notebook}.ipynb")
        return {
            "the package, a manifest or the lock": self.inputs,
            f"{step.notebook}.ipynb": notebook,
            "a parameter": step.parameters,
            "a step before it": finished,
        }

    def made(self, step):
        "Size of each file that a step has to leave; nothing where a kind of file is missing"
        found = {}
        for pattern in step.makes:
            files = [p for p in self.runs.glob(pattern) if p.is_file()]
            if not files:
                return {}
            found |= {p.relative_to(self.runs).as_posix(): p.stat().st_size for p in files}
        return found

    def why(self, step):
        "Why a step has to run; empty when it is finished"
        stamp = self.stamp(step.name)
        if not stamp:
            return "not run yet"
        for what, digest in self.depends(step).items():
            if stamp["depends"].get(what) != digest:
                return f"{what} has changed"
        for path, size in stamp["made"].items():
            file = self.runs / path
            if not file.is_file():
                return f"runs/{path} is missing"
            if file.stat().st_size != size:
                return f"runs/{path} has changed"
        return ""

    def estimates(self):
        "Seconds of each step: measured here, else the typical ones at this machine's pace"
        measured = read_json(self.state / "seconds.json")
        typical = {s.name: s.typical for s in self.steps}
        known = [n for n in typical if n in measured]
        pace = sum(measured[n] for n in known) / sum(typical[n] for n in known) if known else 1
        return {n: measured.get(n, t * pace) for n, t in typical.items()}

    def keep(self, step, seconds):
        "Write down that a step is finished, and how long it took when it took longest"
        times = read_json(self.state / "seconds.json")
        write_json(
            self.state / "seconds.json", times | {step.name: max(seconds, times.get(step.name, 0))}
        )
        stamp = dict(
            finished=time.strftime("%Y-%m-%d %H:%M:%S"),
            seconds=seconds,
            depends=self.depends(step),
            made=self.made(step),
        )
        if stamp["made"]:
            write_json(self.state / f"{step.name}.json", stamp)
        elif step.makes:
            print(
                f"   {step.name} left none of {', '.join(step.makes)}: a next start runs it again",
                flush=True,
            )

    def start(self, step):
        "The exit code of a step. What its cells print goes to the terminal; the executed notebook is kept"
        call = [
            ROOT / ".venv" / "bin" / "papermill",
            self.notebooks / f"{step.notebook}.ipynb",
            self.kept / f"{step.name}.ipynb",
            "--no-progress-bar",
            "--start-timeout",
            "600",
            "--log-level",
            "ERROR",
            "--stdout-file",
            "-",
            "--stderr-file",
            "-",
        ]
        for name, value in step.parameters.items():
            call += ["-p", name, value]
        env = os.environ | {
            "JUPYTER_PREFER_ENV_PATH": "1",
            "GOMP_SPINCOUNT": "3000",
        }  # see the Makefile
        return subprocess.Popen(
            list(map(str, call)),
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        ).wait()

    def left(self):
        "What a stopped or failed step leaves, and how to go on"
        kept = os.path.relpath(self.kept / f"{self.now.name}.ipynb", ROOT)
        finished = ", ".join(self.finished) or "no step"
        lines = [f"Finished and kept: {finished}. As far as {self.now.name} came it is in {kept}."]
        saved = [
            p.parent
            for p in self.runs.glob("*/checkpoints/step-*/checkpoint.json")
            if p.stat().st_mtime > self.began
        ]
        if saved:
            newest = max(saved, key=lambda p: p.stat().st_mtime)
            lines += [
                f"The last checkpoint is {os.path.relpath(newest, ROOT)}; training goes on from there."
            ]
        return "\n".join([*lines, f"Go on with: make {self.command}"])

    def stopped(self):
        "What is said when the whole is stopped"
        if self.now is None:
            return f"stopped before a step was started. Go on with: make {self.command}"
        return (
            f"stopped in {self.now.name}, after {clock(time.time() - self.began)}.\n{self.left()}"
        )


def run_step(experiment, number, todo):
    "Run one step, or say that it is finished"
    step, total = experiment.steps[number], len(experiment.steps)
    title = f"{number + 1}/{total}  {step.name}"
    reason = experiment.why(step)
    if not reason:
        stamp = experiment.stamp(step.name)
        print(
            f"== {title}: finished {stamp['finished']} ({clock(stamp['seconds'])}), passed over",
            flush=True,
        )
        return
    times = experiment.estimates()
    rest = sum(times[s.name] for s in experiment.steps[number:] if s.name in todo)
    print(
        f"\n== {title}: {reason}; about {clock(times[step.name])}, with what follows {clock(rest)}",
        flush=True,
    )
    experiment.now, began = step, time.time()
    code = experiment.start(step)
    if code:
        end_children()
        full = shutil.disk_usage(experiment.runs).free < 10**8
        sys.exit(
            f"\n{step.name} failed (exit code {code}): "
            f"{'the disk is full: free some' if full else 'the reason stands above'}.\n{experiment.left()}"
        )
    experiment.keep(step, round(time.time() - began, 1))


def needed(experiment):
    "Names of the steps that have to run, with those that read their results"
    todo = set()
    for step in experiment.steps:
        if experiment.why(step) or todo & set(step.after):
            todo.add(step.name)
    return todo


def run_all(experiment):
    "All steps, in order"
    todo, times = needed(experiment), experiment.estimates()
    if todo:
        if shutil.disk_usage(experiment.runs).free < NEED_GB * 10**9:
            where = os.path.relpath(experiment.runs, ROOT)
            again = f"free some, then run make {experiment.command} again"
            sys.exit(f"{NEED_GB} GB of free disk are needed for {where}: {again}")
        measured = read_json(experiment.state / "seconds.json").keys() & todo
        how = (
            "as measured here"
            if measured == todo
            else "typical of two cores; from the first step on at this machine's pace"
        )
        print(
            f"{len(todo)} of {len(experiment.steps)} steps to run, about {clock(sum(times[n] for n in todo))} ({how})",
            flush=True,
        )
    for number, step in enumerate(experiment.steps):
        run_step(experiment, number, todo)
        experiment.finished.append(step.name)


@contextmanager
def alone(experiment):
    "One at a time: two would train the same arms. Who waits is told for whom"
    with open(experiment.state / "lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another one"
            where = f"{ROOT.name}/runs"
            print(f"waiting: {holder} is at work in {where}; Ctrl-C leaves it alone", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(
            f"make {experiment.command} (process {os.getpid()}, since {time.strftime('%H:%M')})"
        )
        lock.flush()
        yield


def carry_out(command, steps, **places):
    "Run the steps of a command; what cannot be written ends it with one sentence"
    try:
        experiment = Experiment(command, steps, **places)
        on_stop(experiment.stopped)
        with alone(experiment):
            run_all(experiment)
    except OSError as e:
        sys.exit(
            f"{e.filename or 'runs'}: {e.strerror}; mend that (rights, disk), then run make {command} again"
        )
    return experiment


def main():
    command = sys.argv[1] if len(sys.argv) > 1 else "reproduce"
    if command not in STEPS:
        sys.exit(f"unknown command {command!r}: choose from {', '.join(STEPS)}")
    experiment = carry_out(command, STEPS[command])
    if command == "reproduce":
        print("\n" + (ROOT / "runs" / "report" / "summary.txt").read_text())
    if command != "experiments":
        print("report: runs/report/report.html")
    print(f"executed notebooks: runs/notebooks   {clock(time.time() - experiment.began)} minutes")


if __name__ == "__main__":
    main()
