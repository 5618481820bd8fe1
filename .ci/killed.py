"""A run that is killed again and again, at moments that nobody chose, ends with the weights and the log of one that
was left alone, bit for bit; and what is killed is the process that asked for the training, which must take the
trainer along. Started by `.ci/test.py`."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
KILLS = (signal.SIGKILL, signal.SIGTERM)
PATIENCE = 10  # seconds after which no trainer may be left
TRAINER = """
import sys
from pathlib import Path
from protein_llm.runs.launch import end_with_launcher
end_with_launcher()
from protein_llm.config import from_preset
from protein_llm.runs.run import Run
from protein_llm.training.loop import train
sizes = dict(n_proteins=120, n_test_clusters=10, n_valid_clusters=5, batch_records=8)
often = dict(steps=40, warmup=2, eval_every=5, save_every=1, lora_dropout=.1)
train(Run(from_preset("tiny", "mlp", **sizes, **often), folder=Path(sys.argv[1])))
"""
LAUNCHER = f"""
import sys
from protein_llm.runs.launch import stream
stream([sys.executable, "-c", {TRAINER!r}, sys.argv[1]], sys.argv[2])
"""


def start(folder):
    "A process that asks for the training, as a notebook does"
    env = os.environ | dict(
        PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false"
    )
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(folder), str(folder.with_suffix(".txt"))],
        cwd=ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(folder):
    "Train to the end"
    launcher = start(folder)
    out, _ = launcher.communicate()
    if launcher.returncode:
        sys.exit(out[-3000:])


def steps(folder):
    return (
        len((folder / "log.jsonl").read_text().splitlines())
        if (folder / "log.jsonl").exists()
        else 0
    )


def outcome(folder):
    "Trained weights, and the log without what a clock or the memory says"
    from safetensors import safe_open

    tensors = {}
    for f in sorted((folder / "model").rglob("*.safetensors")):
        with safe_open(f, "pt") as t:
            tensors |= {f"{f.name}/{k}": t.get_tensor(k) for k in t.keys()}
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return tensors, [
        {
            k: v
            for k, v in line.items()
            if k not in ("tokens_per_s", "samples_per_s", "mfu", "memory_gb")
        }
        for line in lines
    ]


def runs(process):
    "Whether a process still runs: one that ended and that nobody has asked about (a zombie) does not"
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(folder, how, rng):
    "Start the training and kill who asked for it at some moment: the trainer goes too; the lines of the log then"
    launcher, at, pause = start(folder), steps(folder) + rng.randint(1, 4), rng.random() * 0.3
    while launcher.poll() is None and steps(folder) < at:
        time.sleep(0.01)
    time.sleep(pause)
    trainers = (
        psutil.Process(launcher.pid).children(recursive=True) if launcher.poll() is None else []
    )
    launcher.send_signal(how)
    if launcher.wait() != -how or not trainers:
        sys.exit(f"training ended before it could be killed: {launcher.stdout.read()[-3000:]}")
    patience = time.time() + PATIENCE
    while (left := list(filter(runs, trainers))) and time.time() < patience:
        time.sleep(0.1)
    if left:
        sys.exit(f"{PATIENCE} s after {how.name} there is still {left}")
    return steps(folder)


def main():
    import torch

    rng = random.Random(time.time_ns())
    with tempfile.TemporaryDirectory(prefix="killed ü ") as d:
        alone, killed = Path(d) / "alone", Path(d) / "killed"
        finish(alone)
        done = [kill(killed, how, rng) for how in KILLS]
        finish(killed)
        (a, log_a), (b, log_b) = outcome(alone), outcome(killed)
        left = sorted(f.name for f in killed.iterdir())
    print(f"killed with {done} lines in the log; {len(a)} tensors and {len(log_a)} lines compared")
    if a.keys() != b.keys() or not all(torch.equal(a[n], b[n]) for n in a):
        sys.exit("the weights differ")
    if log_a != log_b:
        sys.exit("the logs differ")
    if left != ["log.jsonl", "model", "trained.json"]:
        sys.exit(f"left behind: {left}")


if __name__ == "__main__":
    main()
