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

from jobs import as_ready
from processes import end_children, on_stop, stopping

ROOT = Path(__file__).resolve().parent.parent
NEED_GB = 3
JOBS = 2  # steps at a time: a core each takes less than two cores one after the other
ARCHS = ("text", "mlp", "perceiver", "flamingo", "blind")


@dataclass(frozen=True)
class Step:
    "One notebook with its parameters"

    name: str  # What the executed notebook is called
    notebook: str  # Its name below nbs/
    typical: int  # Seconds on two CPU cores with AVX-512, until they are measured here
    makes: tuple  # Patterns of files below runs/ that must be there afterwards; none: never passed over
    after: tuple = ()  # Steps whose results it reads
    parameters: dict = field(default_factory=dict)


TRAINED = tuple(f"03_train-{arch}" for arch in ARCHS)
SCORES = ("comparison-*/tables/*", "tiny-*/evaluation-*/*")
FIGURES = dict(folder="runs/figures", report="runs/report")
# the default's arms on all proteins, with a report of their own
ALL = dict(preset="tiny_all")
ALL_FIGURES = ALL | dict(folder="figures/tiny_all", report="runs/tiny_all/report")
# seconds on one of two cores; text takes longest and starts first
ALL_ARMS = dict(text=4_000, mlp=1_700, perceiver=1_700, flamingo=1_700, blind=1_400)


TASK = dict(folder="figures/downstream")
ALL_TASKS = ALL | dict(folder="figures/downstream/tiny_all", n_written=0)
# of the arms whose rewards, search, levers and parts are committed: the default had so many
EARLIER_STEPS = 500
# the lab's objections are in the page; the training is to show what they are worth
GRPO = dict(folder="figures/grpo", force=True, arm_steps=EARLIER_STEPS)
# seconds on two cores, and parameters of its own
REWARDS = dict(go=(900, dict(steps=30, lr=0.0001)), ec=(1_200, {}))
# task: seconds on two cores, beside another; the dearest first
DOWNSTREAM = dict(ppi=400, stability=400, go=220, ec=100)
DOWNSTREAM_MORE = dict(go_process=270, go_component=270, location=100)
# six times the validation proteins: a difference of .01 in pairs can be seen
SEARCH = dict(
    n_proteins=4_100, steps=EARLIER_STEPS, changes="n_valid_clusters=600", folder="figures"
)
LEVERS = dict(folder="figures", n_seeds=1, steps=EARLIER_STEPS)
# the default over seeds; text, which takes as long as all others, has one
SEEDS = dict(
    n_proteins=3_600,
    ways="mlp,perceiver,flamingo,blind",
    n_swap=1_000,
    n_generate=0,
    random_control=True,
)
# questions of the grid: seconds on two cores, and parameters; each is a step, so that one can be asked for
# both ladders at once: they share their largest runs, which are told before they are trained
LADDER = dict(groups="ladder_steps,ladder_epochs", changes="max_residues=512")
# the default's recipe, and enough answers to tell by identity to train
RETRIEVAL = dict(n_proteins=3_600, steps=600, n_swap=250, n_generate=100)
QUESTIONS = dict(
    seeds=(1_600, SEEDS),
    parts=(4_800, SEEDS | dict(tasks="go,ec", changes=f"steps={EARLIER_STEPS}")),
    ladder=(12_000, LADDER),
    llm=(7_500, dict(changes="max_residues=512")),
    ways=(8_500, {}),
    sources=(2_000, {}),
    waterfall=(2_400, dict(notebook="06_waterfall")),
    retrieval=(6_000, RETRIEVAL),
)
# questions for those who unpacked a Debian package: asked by name alone
SWISSPROT = dict(
    groups="ladder_steps",
    called="metastudent",
    arms="mlp,blind",
    once="blind",
    n_proteins=110_000,
    changes="manifest=metastudent n_test_clusters=500 n_valid_clusters=100",
)
BY_NAME = dict(metastudent=(9_000, SWISSPROT))
FLAMINGO = SEARCH | dict(
    arch="flamingo", levers="LoRA of rank 8,half of the bridge's rate", folder="figures"
)


def train_step(arch, typical, after):
    "The training of one arm"
    makes = (f"tiny-{arch}-*/trained.json", f"tiny-{arch}-*/model/**/*")
    return Step(f"03_train-{arch}", "03_train", typical, makes, after, dict(arch=arch))


def all_steps():
    "The arms on all proteins, in the order of `reproduce`"
    steps = [
        Step("all-01_data", "01_data", 110, (), (), ALL),
        Step("all-02_encode", "02_encode", 800, (), ("all-01_data",), ALL),
    ]
    for arch, seconds in ALL_ARMS.items():
        own = ALL | dict(arch=arch)
        steps.append(Step(f"all-03_train-{arch}", "03_train", seconds, (), ("all-02_encode",), own))
    trained = tuple(step.name for step in steps[2:])
    return [
        *steps,
        Step("all-04_evaluate", "04_evaluate", 1_200, (), trained, ALL),
        Step("all-05_figures", "05_figures", 60, (), ("all-04_evaluate",), ALL_FIGURES),
        *[
            Step(
                f"all-07_downstream-{task}",
                "07_downstream",
                240,
                (),
                trained,
                ALL_TASKS | dict(task=task),
            )
            for task in ("go", "go_component", "go_process", "ec", "location")
        ],
    ]


def task_steps(tasks):
    "The downstream tasks of a target"
    return [
        Step(f"07_downstream-{task}", "07_downstream", seconds, (), (), TASK | dict(task=task))
        for task, seconds in tasks.items()
    ]


def cores():
    "CPU cores that this process may use"
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def grid_steps(questions, before=()):
    "A step a question of the grid, or those that are asked for; the first starts when others have ended"
    asked = [name for name in os.environ.get("GRID_GROUPS", "").split(",") if name]
    known = questions | BY_NAME
    unknown = [name for name in asked if name not in known]
    if unknown:
        sys.exit(f"there is no question {unknown[0]!r}: choose from {', '.join(known)}")
    jobs = os.environ.get("GRID_JOBS") or str(min(JOBS, cores()))
    steps = []
    for name in asked or questions:
        seconds, own = known[name]
        parameters = dict(folder="figures/experiments", jobs=int(jobs)) | own
        notebook = parameters.pop("notebook", "06_experiments")
        if notebook == "06_experiments":
            parameters = dict(groups=name) | parameters
        steps.append(Step(f"{notebook}-{name}", notebook, seconds, (), before, parameters))
        before = (steps[-1].name,)  # a question uses all cores
    return steps


ALL_STEPS = all_steps()
STEPS = dict(
    reproduce=[
        # text reads no features, and takes longest: it starts at once, and waits for the corpus alone
        Step("01_data", "01_data", 110, ("shared/corpus-*/*",)),
        train_step("text", 340, ()),
        Step("02_encode", "02_encode", 205, ("shared/features-*/*",), ("01_data",)),
        *[train_step(arch, 127, ("02_encode",)) for arch in ("mlp", "perceiver", "flamingo")],
        train_step("blind", 110, ("01_data",)),
        Step("04_evaluate", "04_evaluate", 270, SCORES, TRAINED),
        Step("05_figures", "05_figures", 35, ("figures/*", "report/*"), ("04_evaluate",), FIGURES),
    ],
    # one after the other: a question uses all cores
    experiments=[
        *ALL_STEPS,
        *grid_steps(QUESTIONS, tuple(step.name for step in ALL_STEPS)),
    ],
    grid=grid_steps(QUESTIONS),
    search=[
        Step("search", "06_search", 5_400, (), (), SEARCH),
        # what its frozen language model costs it
        Step("search-flamingo", "06_search", 500, (), (), FLAMINGO),
    ],
    downstream=task_steps(DOWNSTREAM),
    levers=[
        Step("07_levers-go", "07_levers", 3_000, (), (), LEVERS | dict(task="go")),
        # asks what the other has trained
        Step(
            "07_levers-go_component",
            "07_levers",
            600,
            (),
            ("07_levers-go",),
            LEVERS | dict(task="go_component"),
        ),
    ],
    grpo=[
        Step(f"08_grpo-{reward}", "08_grpo", seconds, (), (), GRPO | dict(reward=reward) | own)
        for reward, (seconds, own) in REWARDS.items()
    ],
    figures=[
        Step("figures", "05_figures", 62, (), (), dict(folder="figures", report="runs/report"))
    ],
) | {"downstream-more": task_steps(DOWNSTREAM_MORE)}


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
        self.now, self.finished = [], []  # steps that run, names of those that ended
        self.began = time.time()
        for folder in (self.kept, self.state):
            folder.mkdir(parents=True, exist_ok=True)
        self.inputs = inputs_digest()

    def stamp(self, name):
        return read_json(self.state / f"{name}.json")

    def depends(self, step):
        "What a step's result depends on, in words, and the digest of each"
        finished = [self.stamp(name).get("ended") for name in step.after]
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
            ended=time.time_ns(),  # two that ended within a second are told apart
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

    def command_of(self, step):
        "The command that executes a step's notebook; what its cells print goes to standard output"
        call = [
            ROOT / ".venv" / "bin" / "papermill",
            self.notebooks / f"{step.notebook}.ipynb",
            self.kept / f"{step.name}.ipynb",
            *("--no-progress-bar", "--start-timeout", "600", "--log-level", "ERROR"),
            *("--stdout-file", "-", "--stderr-file", "-"),
        ]
        for name, value in step.parameters.items():
            call += ["-p", name, value]
        return list(map(str, call))

    def start(self, step, threads, prefix=""):
        "The exit code of a step. Its lines go to the terminal; the executed notebook is kept"
        # see Makefile
        env = os.environ | {"JUPYTER_PREFER_ENV_PATH": "1", "GOMP_SPINCOUNT": "3000"}
        if threads:
            env |= {"OMP_NUM_THREADS": str(threads)}
        work = subprocess.Popen(
            self.command_of(step),
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        for line in work.stdout:
            print(f"{prefix}{line.rstrip()}", flush=True)
        return work.wait()

    def left(self):
        "What stopped or failed steps leave, and how to go on"
        finished = ", ".join(self.finished) or "no step"
        lines = [f"Finished and kept: {finished}."]
        for step in self.now:
            kept = os.path.relpath(self.kept / f"{step.name}.ipynb", ROOT)
            lines.append(f"As far as {step.name} came it is in {kept}.")
        saved = self.runs.glob("*/checkpoints/step-*/checkpoint.json")
        new = [p.parent for p in saved if p.stat().st_mtime > self.began]
        if new:
            newest = os.path.relpath(max(new, key=lambda p: p.stat().st_mtime), ROOT)
            lines.append(f"The last checkpoint is {newest}; training goes on from there.")
        return "\n".join([*lines, f"Go on with: make {self.command}"])

    def stopped(self):
        "What is said when the whole is stopped"
        if not self.now:
            return f"stopped before a step was started. Go on with: make {self.command}"
        names = " and ".join(step.name for step in self.now)
        return f"stopped in {names}, after {clock(time.time() - self.began)}.\n{self.left()}"


def run_step(experiment, step, todo, jobs):
    "Run one step, or say that it is finished; the error that ends all, empty where it went well"
    place = experiment.steps.index(step) + 1
    title = f"{place}/{len(experiment.steps)}  {step.name}"
    reason = experiment.why(step)
    if not reason:
        stamp = experiment.stamp(step.name)
        took = clock(stamp["seconds"])
        print(f"== {title}: finished {stamp['finished']} ({took}), passed over", flush=True)
        return ""
    seconds = experiment.estimates()[step.name]
    rest = remaining(experiment, todo, jobs)
    about = f"about {clock(seconds)}, with what follows {clock(rest)}"
    print(f"\n== {title}: {reason}; {about}", flush=True)
    began = time.time()
    side_by_side = jobs > 1 and len(beside(experiment, step)) > 0
    threads = max(1, cores() // jobs) if side_by_side else None
    code = experiment.start(step, threads, f"{step.name} | " if side_by_side else "")
    if stopping.is_set():
        return ""  # a notebook whose process was ended may still exit with 0
    if code:
        full = shutil.disk_usage(experiment.runs).free < 10**8
        why = "the disk is full: free some" if full else "the reason stands above"
        return f"\n{step.name} failed (exit code {code}): {why}."
    experiment.keep(step, round(time.time() - began, 1))
    return ""


def all_before(experiment, step):
    "Names of the steps that must have ended before this one, and before those"
    earlier = [s for s in experiment.steps if s.name in step.after]
    return set(step.after).union(*(all_before(experiment, s) for s in earlier))


def beside(experiment, step):
    "Steps that can run while this one does: neither waits for the other"
    before = all_before(experiment, step) | {step.name}
    others = [s for s in experiment.steps if s.name not in before]
    return [s for s in others if step.name not in all_before(experiment, s)]


def remaining(experiment, todo, jobs):
    "Seconds that the steps which are left take, those side by side counted as such"
    times = experiment.estimates()
    left = [s for s in experiment.steps if s.name in todo and s.name not in experiment.finished]
    shared = sum(times[s.name] for s in left if beside(experiment, s)) / jobs
    return shared + sum(times[s.name] for s in left if not beside(experiment, s))


def needed(experiment):
    "Names of the steps that have to run, with those that read their results"
    todo = set()
    for step in experiment.steps:
        if experiment.why(step) or todo & set(step.after):
            todo.add(step.name)
    return todo


def announce(experiment, todo, jobs):
    "Say how much is to be done; stop where the disk is too small for it"
    if shutil.disk_usage(experiment.runs).free < NEED_GB * 10**9:
        where = os.path.relpath(experiment.runs, ROOT)
        again = f"free some, then run make {experiment.command} again"
        sys.exit(f"{NEED_GB} GB of free disk are needed for {where}: {again}")
    measured = read_json(experiment.state / "seconds.json").keys() & todo
    typical = "typical of two cores; from the first step on at this machine's pace"
    how = "as measured here" if measured == todo else typical
    about = clock(remaining(experiment, todo, jobs))
    count = f"{len(todo)} of {len(experiment.steps)} steps to run"
    print(f"{count}, about {about} ({how})", flush=True)


def run_all(experiment):
    "All steps, each when those are finished whose results it reads; two at a time where two can be"
    todo = needed(experiment)
    jobs = min(JOBS, cores())
    if todo:
        announce(experiment, todo, jobs)

    def work(step):
        experiment.now.append(step)
        return run_step(experiment, step, todo, jobs)

    for step, error in as_ready(experiment.steps, lambda step: step.after, work, jobs):
        if error:
            end_children()
            print(f"{error}\n{experiment.left()}", file=sys.stderr, flush=True)
            os._exit(1)  # the other step's thread would be waited for
        experiment.now.remove(step)
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
    if command in ("reproduce", "figures"):
        print("report: runs/report/report.html")
    print(f"executed notebooks: runs/notebooks   {clock(time.time() - experiment.began)} minutes")


if __name__ == "__main__":
    main()
