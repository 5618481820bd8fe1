"""What the benchmarks of parts of our own training step share: one arm, the same records and steps, something switched
on and off in turns. Not a benchmark itself."""

import argparse
import json
import sys
import time

import pandas as pd
import torch

QUICK = dict(n_proteins=120, n_test_clusters=10, n_valid_clusters=5, batch_records=32)


class Side:
    "An arm, its records, and how long its steps take"

    def __init__(self, arch, changes, switch):
        from protein_llm.config import from_preset
        from protein_llm.core import set_seed
        from protein_llm.model import build_model
        from protein_llm.runs.run import Run
        from protein_llm.text.packing import record_weights
        from protein_llm.training.parallel import make_accelerator
        from protein_llm.training.step import make_optimizer

        self.switch = switch
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

    def gradient(self, on):
        "What a step computes, and its gradient"
        from protein_llm.training.step import step_gradients

        self.switch(self.model, on)
        self.optimizer.zero_grad()
        done = step_gradients(self.model, self.records(0), self.data, self.cfg, self.acc)
        grads = [p.grad.flatten() for p in self.model.parameters() if p.grad is not None]
        return done, torch.cat(grads)

    def seconds(self, step, on):
        "CPU time of a step"
        from protein_llm.training.step import train_step

        self.switch(self.model, on)
        records = self.records(step)
        began = time.process_time()
        train_step(self.model, self.optimizer, step, records, self.data, self.cfg, self.acc)
        return time.process_time() - began


def compare(arch, changes, steps, switch):
    "Times of an arm's steps with and without, and what a step computed; losses and gradients agree"
    side = Side(arch, changes, switch)
    done, grad = side.gradient(True)
    without, wanted = side.gradient(False)
    assert abs(done["loss"] - without["loss"]) < 1e-5, (done["loss"], without["loss"])
    assert (grad - wanted).norm() < 1e-4 * wanted.norm()
    times = {True: [], False: []}
    for k in range(steps):
        for on in (True, False) if k % 2 else (False, True):  # each goes first as often
            times[on].append(side.seconds(k, on))
    ours, theirs = min(times[True]), min(times[False])
    print(f"{arch}: {ours:.3f} s a step, without {theirs:.3f} s", file=sys.stderr)
    return theirs / ours, done, without


def run_bench(name, doc, bars, quick_bars, figures_of):
    "Parse, compare each arm, print the line that is judged"
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    changes, steps = (QUICK, 6) if quick else (dict(batch_records=64), 8)
    bars, figures = quick_bars if quick else bars, {}
    for arch in bars:
        figures |= figures_of(arch, changes, steps)
    ok = all(figures[name] >= bar for name, bar in bars.items())
    figures = {name: round(value, 2) for name, value in figures.items()}
    print(json.dumps(dict(bench=name, figures=figures, bars=bars, ok=ok)))
    sys.exit(not ok)
