"""A run that is killed again and again, at moments that nobody chose, ends with the weights and the log of one that was left alone, bit for bit. Started by `.ci/test.py`."""
import json, os, random, signal, subprocess, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KILLS = 2
WORK = """
import sys
from pathlib import Path
from protein_llm.config import from_preset
from protein_llm.train import train
train(from_preset("tiny", "mlp", n_proteins=120, n_test_clusters=10, n_valid_clusters=5, steps=40, warmup=2, batch_records=8, eval_every=5, save_every=1, lora_dropout=.1), folder=Path(sys.argv[1]))
"""


def start(folder):
    env = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    return subprocess.Popen([sys.executable, "-c", WORK, str(folder)], cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def steps(folder): return len((folder/"log.jsonl").read_text().splitlines()) if (folder/"log.jsonl").exists() else 0


def outcome(folder):
    "Trained weights, and the log without what a clock or the memory says"
    from safetensors import safe_open
    files = sorted((folder/"model").rglob("*.safetensors"))
    tensors = {}
    for f in files:
        with safe_open(f, "pt") as t: tensors |= {f"{f.name}/{k}": t.get_tensor(k) for k in t.keys()}
    lines = [{k: v for k,v in json.loads(l).items() if k not in ("tokens_per_s", "samples_per_s", "mfu", "memory_gb")} for l in (folder/"log.jsonl").read_text().splitlines()]
    return tensors, lines


def main():
    import torch
    rng,done = random.Random(time.time_ns()),[]
    with tempfile.TemporaryDirectory() as d:
        alone,killed = Path(d)/"alone", Path(d)/"killed"
        if (p := start(alone)).wait(): sys.exit(p.stdout.read()[-3000:])
        for _ in range(KILLS):
            p,at,pause = start(killed), steps(killed)+rng.randint(1, 4), rng.random()*.3
            while p.poll() is None and steps(killed) < at: time.sleep(.01)
            time.sleep(pause)
            p.send_signal(signal.SIGKILL)
            if p.wait() != -signal.SIGKILL: sys.exit(f"training ended before it could be killed: {p.stdout.read()[-3000:]}")
            done.append(steps(killed))
        if (p := start(killed)).wait(): sys.exit(p.stdout.read()[-3000:])
        (a,log_a),(b,log_b) = outcome(alone), outcome(killed)
        left = sorted(f.name for f in killed.iterdir())
    print(f"killed with {done} lines in the log; {len(a)} tensors and {len(log_a)} lines compared")
    if a.keys() != b.keys() or not all(torch.equal(a[n], b[n]) for n in a): sys.exit("the weights differ")
    if log_a != log_b: sys.exit("the logs differ")
    if left != ["log.jsonl", "model", "trained.json"]: sys.exit(f"left behind: {left}")


if __name__ == "__main__": main()
