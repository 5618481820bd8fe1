"""All tests: the library notebooks, what is generated from them, and the experiment at smoke size.
Started by `make test`."""

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from calls import ROOT, call  # noqa: E402
from form import checks, notebooks, skipped  # noqa: E402
from jobs import as_ready  # noqa: E402
from processes import on_stop  # noqa: E402

BIN = ROOT / ".venv" / "bin"
OUT = ROOT / "runs" / "smoke"
LIMIT = 2_400  # seconds that a command may take: slow machines take twice what quiet ones do

ARCHS = ("text", "mlp", "perceiver", "flamingo", "blind")
# The experiment at smoke size: parameters that the notebooks share.
# Their hash names the folders, so nothing of the real run is touched.
HELD_OUT = "n_test_clusters=20 n_valid_clusters=5"
SMOKE = dict(n_proteins=300, changes=HELD_OUT)
TRAIN = dict(SMOKE, steps=4)
EVALUATE = dict(TRAIN, changes=f"{HELD_OUT} n_generate=2 n_swap=10 draws=50")
GRID = dict(
    TRAIN,
    rate_steps=4,
    rates="1,",
    n_seeds=1,
    jobs=2,
    n_swap=20,
    n_generate=1,
    folder="runs/smoke/grid",
    changes=f"{HELD_OUT} draws=50",
)
# What each run notebook gets, and which of the others must have ended before it starts.
# Two jobs run at a time, in this order: what many wait for first, then the longest.
TRAINED = tuple(f"train {arch}" for arch in ARCHS)
CHAIN = {
    "train text": ("03_train", dict(TRAIN, arch="text"), ()),
    # both need the corpus: one builds it, the other waits
    "encode": ("02_encode", SMOKE, ()),
    **{
        f"train {arch}": ("03_train", dict(TRAIN, arch=arch), ("encode",))
        for arch in ARCHS
        if arch != "text"
    },
    "evaluate": ("04_evaluate", EVALUATE, TRAINED),
    "figures": (
        "05_figures",
        dict(EVALUATE, folder="runs/smoke/figures", report="runs/smoke/report"),
        ("evaluate",),
    ),
    "evaluate two seeds": ("04_evaluate", dict(EVALUATE, n_seeds=2, probes=False), ("evaluate",)),
    # on the chain's corpus: its recipe's first seed is trained already
    "search": (
        "06_search",
        dict(
            TRAIN,
            n_seeds=2,
            levers="no warm start",
            folder="runs/smoke/search",
            changes=f"{HELD_OUT} draws=50",
        ),
        ("train mlp",),
    ),
    "grid: a ladder, language models, and retrieval": (
        "06_experiments",
        dict(
            GRID,
            groups="ladder_steps,llm,retrieval",
            n_llm_sizes=2,
            arms="mlp,blind",
            retrieve=2,
            n_sizes=2,
            smallest=40,
            n_draws=1,
        ),
        ("encode",),
    ),
    # its learning rates, and the arms at published sizes, are trained already
    "grid: ways": (
        "06_experiments",
        dict(GRID, groups="ways", ways="text,blind", tasks="go"),
        TRAINED,
    ),
    # the first and the last line; the first is trained already
    "grid: the waterfall": (
        "06_waterfall",
        dict(TRAIN, lines="1,6", jobs=2, folder="runs/smoke/waterfall"),
        TRAINED,
    ),
    "downstream": (
        "07_downstream",
        dict(
            TRAIN,
            task="go",
            arch="mlp",
            n_written=2,
            n_beside=5,
            folder="runs/smoke/downstream",
            changes="n_test_clusters=60 n_valid_clusters=40 draws=50",
        ),
        ("encode",),
    ),
    "own bridge": ("03a_own_bridge", EVALUATE, ("evaluate",)),
    "ask": ("09_ask", dict(page="runs/smoke/answers.html"), ()),
    "data": ("01_data", SMOKE, ("encode",)),
    "data of a leaky split": ("01_data", dict(SMOKE, split="exact"), ("encode",)),
    "plan for one GPU": ("00_plan", dict(preset="tiny", gpus=1), ()),
    "plan": ("00_plan", {}, ()),
}
# what takes processes of its own, and the run notebooks whose results it reads
SCRIPTS = {
    "bad inputs are refused with a sentence": ("inputs.py", ()),
    "two processes, whole and in slices, train as one does": ("two_processes.py", ()),
    "every command of README": ("readme_commands.py", ("figures", "own bridge", "data")),
    "two processes, whole and in slices, learn from rewards as one does": (
        "two_processes_rewards.py",
        (),
    ),
    "training by rewards: refused with reasons, then forced; its tables by other code": (
        "rewards.py",
        ("train mlp",),
    ),
    "a training killed again and again goes on as if nothing had been": ("killed.py", ()),
    "docs/score_your_model.md, from the records to a card": ("own_model.py", ("data",)),
    "make's commands: finished steps, signals, files that are not ours": ("commands.py", ()),
    "the second table's numbers, computed anew by other code": ("smollm2.py", ()),
    "the post in Chromium, its switches used (if there is one)": ("browser.py", ()),
    "the page of serve and the panel used in Chromium (if there is one)": ("browser_ask.py", ()),
    "the report in Chromium, on a screen and on a telephone (if there is one)": (
        "pages.py",
        ("figures",),
    ),
}
# input that must end with exit code 1, and what the message must say
REFUSED = {
    "a misspelt parameter": ("03_train", dict(step=3), "step"),
    "a misspelt field among the changes": (
        "03_train",
        dict(changes="n_token=16"),
        "unknown parameter 'n_token': choose from n_tokens",
    ),
    "a field that is given twice": (
        "04_evaluate",
        dict(steps=4, changes="steps=5"),
        "steps is given twice",
    ),
    "an unknown arch": ("03_train", dict(arch="mpl"), "unknown arch 'mpl'"),
    "an unknown preset": ("03_train", dict(preset="huge"), "unknown preset 'huge'"),
    "a licence not accepted": (
        "02_encode",
        dict(preset="qwen3_8b"),
        "accept their licence at https://huggingface.co/biohub/esm3-sm-open-v1",
    ),
    "a corrupt shipped file": (
        "01_data",
        dict(manifest="runs/smoke/corrupt.json"),
        "human_demo.tar.xz is corrupt",
    ),
}


def run(command, **env):
    "Exit code and output of a command of .venv"
    known = {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "JUPYTER_PREFER_ENV_PATH": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return call(command, limit=LIMIT, **known | env)


class Tally:
    "Counts, and prints one line for each result"

    def __init__(self):
        self.passed, self.failures = 0, []

    def add(self, name, error="", seconds=None):
        "A result: `error` is empty, or the output of what failed"
        took = "" if seconds is None else f"  {seconds:.0f} s"
        print(f"{'FAILED' if error else 'ok    '} {name}{took}", flush=True)
        if error:
            self.failures.append((name, error.strip().splitlines()))
            print("    " + "\n    ".join(self.failures[-1][1][-60:]), flush=True)
        else:
            self.passed += 1

    def end(self):
        "The count, below the last words of each error: whoever is shown the end of this log alone sees why it is red"
        for name, lines in self.failures:
            print(f"\nFAILED {name}\n    " + "\n    ".join(lines[-25:]))
        print(f"{self.passed} passed, {len(self.failures)} failed", flush=True)


def read(path):
    return json.loads(path.read_text())


def library(tally):
    "Run every library notebook; nbdev_test prints no count, so it is taken here"
    paths = [p for p in notebooks() if not skipped(p) and not p.name.startswith("_")]
    began = time.time()
    # two workers: more threads would wait for each other
    code, out = run([BIN / "nbdev_test", "--n_workers", 2, "--timing"], OMP_NUM_THREADS="1")
    bad = [
        p
        for p in paths
        if code and p.name in out.rpartition("Failed On The Following Notebooks")[2]
    ]
    if code and not bad:
        tally.add("nbdev_test", out)
    for p in paths:
        tally.add(
            p.relative_to(ROOT / "nbs").as_posix(), "its error stands below" if p in bad else ""
        )
    if bad:
        tally.failures[-1][1].extend(out.splitlines())
        print(out)
    slowest = re.findall(r"^(.+\.ipynb): (\d+) secs$", out, re.M)[:12]
    print("       slowest: " + ", ".join(f"{name} {seconds} s" for name, seconds in slowest))
    print(f"       nbdev_test  {time.time() - began:.0f} s", flush=True)


def papermill(name, label, parameters):
    "Exit code and output of one run notebook"
    given = [w for k, v in parameters.items() for w in ("-p", k, v)]
    return run(
        [
            BIN / "papermill",
            ROOT / "nbs" / f"{name}.ipynb",
            OUT / "notebooks" / f"{label.replace(' ', '-')}.ipynb",
            "--no-progress-bar",
            "--start-timeout",
            600,
            "--log-output",
            *given,
        ]
    )


def refused(name, label, parameters, words):
    "Error of a bad input that does not end with exit code 1 and the right words"
    code, out = papermill(name, label, parameters)
    if code == 1 and words in out:
        return ""
    return f"{out}\nexpected exit code 1 and {words!r}; the exit code was {code}"


def script(name):
    "Error of a script beside this one"
    code, out = run([BIN / "python", ROOT / ".ci" / name], OMP_NUM_THREADS="1")
    return out if code else ""


def notebook(name, label, parameters):
    "Error of a run notebook"
    code, out = papermill(name, label, parameters)
    return out if code else ""


def corrupt():
    "A manifest whose shipped file was cut short"
    # a name of its own: what is unpacked already is not asked for again
    manifest = read(ROOT / "data_manifests" / "demo.json") | dict(name="corrupt")
    whole = ROOT / manifest["origin"]["path"]
    (OUT / whole.name).write_bytes(whole.read_bytes()[:100_000])
    manifest["origin"]["path"] = f"runs/smoke/{whole.name}"
    (OUT / "corrupt.json").write_text(json.dumps(manifest))


def recomputed():
    "What differs when the smoke report is computed anew by other code; its intervals rest on few draws"
    places = OUT / "report", OUT / "figures"
    code, out = run([BIN / "python", ROOT / ".ci" / "recompute.py", *places, "--values"])
    return out if code else ""


def post():
    "What of the committed post is not what committed tables and text give"
    code, out = run([BIN / "python", ROOT / "scripts" / "blog.py", "--check"])
    return out if code else ""


def bench():
    "What goes wrong in the benchmark for a GPU, at toy sizes: sides whose losses differ among it"
    code, out = run([BIN / "python", ROOT / "bench" / "gpu.py", "--small"], OMP_NUM_THREADS="1")
    return out if code else ""


@dataclass
class Job:
    "One thing to be done, which gives its error, and the names of those that must have ended well before"

    name: str
    work: Callable[[], str]
    needs: tuple = ()
    seconds: float = 0.0

    def __call__(self):
        began = time.time()
        error = self.work()
        self.seconds = time.time() - began
        return error


def jobs():
    "The experiment at smoke size, the scripts, and the inputs that must be refused"
    for label, (name, parameters, needs) in CHAIN.items():
        yield Job(label, partial(notebook, name, label, parameters), needs)
    yield Job("ten numbers and ten claims, computed anew", recomputed, ("figures",))
    yield Job("docs/post is what the committed tables give", post)
    yield Job("the benchmark for a GPU, at toy sizes", bench)
    for label, (name, needs) in SCRIPTS.items():
        yield Job(label, partial(script, name), needs)
    for label, (name, parameters, words) in REFUSED.items():
        yield Job(f"refused: {label}", partial(refused, name, label, parameters, words))


def chain(tally):
    "All jobs, two at a time, from a clean folder"
    shutil.rmtree(OUT, ignore_errors=True)
    (OUT / "notebooks").mkdir(parents=True)
    corrupt()
    for job, error in as_ready(jobs(), lambda job: job.needs, Job.__call__, at_once=2):
        tally.add(job.name, error, job.seconds)


def main():
    on_stop(lambda: "stopped. What the tests wrote is in runs/smoke, which a next start deletes.")
    tally, began = Tally(), time.time()
    library(tally)
    for name, error in checks():
        tally.add(name, error)
    chain(tally)
    print(f"\n{time.time() - began:.0f} s", flush=True)
    tally.end()
    sys.exit(1 if tally.failures else 0)


main()
