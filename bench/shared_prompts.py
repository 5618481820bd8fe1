"""Training steps in which records of one protein compute the beginning of their prompts once, against the same
records apart.

`python bench/shared_prompts.py` takes steps of 64 records of the default corpus, for text and mlp; `--quick` is the
same with 120 proteins, 32 records and fewer steps, and smaller bars. Both sides are this project's packed step with
the same model, records and optimizer, in one process, in turns on one thread; the CPU time of a step counts, the
minimum over steps. Asserted first: mean losses agree to 1e-5, gradients to 1e-4 of their norm. `tokens` is how many
times as many tokens the records apart compute.
"""

import argparse
import json
import sys
import time

import pandas as pd
import torch

from protein_llm.text import packing

torch.set_num_threads(1)
BARS = dict(text=2.0, mlp=1.1)
QUICK_BARS = dict(text=1.5, mlp=1.0)
QUICK = dict(n_proteins=120, n_test_clusters=10, n_valid_clusters=5, batch_records=32)
TOGETHER = packing.LEAST_SHARED
APART = 10**9  # more than any two prompts begin alike with


class Side:
    "An arm, its records, and how long its steps take with and without sharing"

    def __init__(self, arch, changes):
        from protein_llm.config import from_preset
        from protein_llm.core import set_seed
        from protein_llm.model import build_model
        from protein_llm.runs.run import Run
        from protein_llm.text.packing import record_weights
        from protein_llm.training.parallel import make_accelerator
        from protein_llm.training.step import make_optimizer

        cfg = from_preset("tiny", arch, **changes)
        run = Run(cfg)
        self.cfg, self.data, self.acc = cfg.train, run.data, make_accelerator(run)
        train = self.data.corpus.records_of("train", "task", "sources")
        self.positions = self.data.tokens.positions(train.record_id)
        self.weights = record_weights(train, self.cfg)
        self.proteins = pd.factorize(train.protein_id)[0]
        d = self.data.features.d if self.data.reads_features else 0
        set_seed(0)
        self.model = build_model(cfg.model, d, self.data.tokenizer).train()
        self.optimizer = make_optimizer(self.model, self.cfg)

    def records(self, step):
        from protein_llm.text.packing import step_records

        n = len(self.positions)
        return self.positions[step_records(n, step, self.cfg, self.weights, self.proteins)]

    def gradient(self, least):
        "What a step computes, and its gradient"
        from protein_llm.training.step import step_gradients

        packing.LEAST_SHARED = least
        self.optimizer.zero_grad()
        done = step_gradients(self.model, self.records(0), self.data, self.cfg, self.acc)
        grads = [p.grad.flatten() for p in self.model.parameters() if p.grad is not None]
        return done, torch.cat(grads)

    def seconds(self, step, least):
        "CPU time of a step"
        from protein_llm.training.step import train_step

        packing.LEAST_SHARED = least
        records = self.records(step)
        began = time.process_time()
        train_step(self.model, self.optimizer, step, records, self.data, self.cfg, self.acc)
        return time.process_time() - began


def compare(arch, changes, steps):
    "Ratios of an arm: time and tokens"
    side = Side(arch, changes)
    shared, grad = side.gradient(TOGETHER)
    apart, wanted = side.gradient(APART)
    assert abs(shared["loss"] - apart["loss"]) < 1e-5, (shared["loss"], apart["loss"])
    assert (grad - wanted).norm() < 1e-4 * wanted.norm()
    times = [(side.seconds(k, TOGETHER), side.seconds(k, APART)) for k in range(steps)]
    ours, theirs = (min(column) for column in zip(*times, strict=True))
    print(f"{arch}: {ours:.3f} s a step, apart {theirs:.3f} s", file=sys.stderr)
    return {arch: theirs / ours, f"{arch}_tokens": apart["tokens"] / shared["tokens"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    changes, steps = (QUICK, 4) if quick else (dict(batch_records=64), 8)
    figures = {}
    for arch in ("text", "mlp"):
        figures |= compare(arch, changes, steps)
    bars = QUICK_BARS if quick else BARS
    ok = all(figures[name] >= bar for name, bar in bars.items())
    figures = {name: round(value, 2) for name, value in figures.items()}
    print(json.dumps(dict(bench="shared_prompts", figures=figures, bars=bars, ok=ok)))
    sys.exit(not ok)


if __name__ == "__main__":
    main()
