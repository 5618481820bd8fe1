"""Useful tokens on eight ranks: our `plan_step`, against padding of random records and of groups of like length.

`python bench/utilisation.py` goes through 500 optimizer steps of 512 records, `--quick` through 50; the bar is the
same. Nothing is timed. Ranks wait for each other at every micro-batch, so the figure is the records' own tokens over
what is computed or waited for: for each micro-batch the tokens, padding included, of the rank that has most, summed,
times eight. Time is taken to follow tokens; attention grows faster within a record, and that is not in the figure.
The settings are those of the preset `qwen3_8b`: 512 records a step, 8,192 tokens a micro-batch, packed.
Lengths: those of `packer.py` (mean 235, the published run's), new ones for each step; for `demo_text` and
`demo_bridge` those of the demo's token stores of a text arm and of a bridge arm, whose records are drawn as training
draws them and scaled to the same mean (they vary far less: the demo's proteins have at most 384 residues and its
answers are short).

Without a bar, with 16 records a rank and micro-batch and four of them a step, as the published run had: `random`,
records as they come, each micro-batch padded to its longest; `groups`, Hugging Face's `group_by_length` (its
`get_length_grouped_indices`, 50 x 64 records sorted at a time, dealt to ranks in turns), which decides which records
make a step, while ours takes the step's records as they are drawn.
`padded` is ours with `pack=False`: like lengths beside each other within a step, as many rows as fit 8,192 tokens.
`greedy` is packing without evening out: rows of `pack_rows` in turns to ranks, which wait while the last rows are
fewer than ranks. `row` is the width of our longest row over 8,192, the mean of steps: evening out makes rows less
full than they could be, which costs no computation.
"""

import argparse
import json
import sys
from dataclasses import replace

import numpy as np
from packer import draw

BARS = QUICK_BARS = dict(useful=0.99)
STEPS, QUICK_STEPS = 500, 50
RANKS, ROWS = 8, 16
MEAN = 235


def waited(widths):
    "Tokens computed or waited for: `widths` are those of each micro-batch of each rank [ranks, micro-batches]"
    return np.max(widths, axis=0).sum() * len(widths)


def padded_widths(lengths, groups):
    "Tokens of micro-batches of one record a row"
    return [
        [len(group) * max(lengths[i] for row in group for i in row) for group in rank]
        for rank in groups
    ]


def of_plans(steps, cfg):
    "Tokens waited for over all steps, and the mean width of the longest row over the budget; checks the plans"
    from protein_llm.text.packing import plan_step

    total, widest = 0, []
    for lengths in steps:
        plan = plan_step(lengths, cfg, RANKS)
        assert sorted(i for rank in plan for group in rank for row in group for i in row) == list(
            range(len(lengths))
        ), "a record is lost or comes twice"
        rows = (
            [[lengths[group[0]].sum() for group in rank] for rank in plan]
            if cfg.pack
            else padded_widths(lengths, plan)
        )
        assert np.max(rows) <= cfg.batch_tokens, "a micro-batch is over its budget"
        total += waited(rows)
        widest.append(np.max(rows) / cfg.batch_tokens)
    return total, np.mean(widest)


def greedy(steps, cfg):
    "Rows of best fit decreasing as they come; a rank without a row waits"
    from protein_llm.text.packing import pack_rows

    total = 0
    for lengths in steps:
        rows = [lengths[r].sum() for r in pack_rows(lengths, cfg.batch_tokens)]
        total += waited(
            np.resize(np.r_[rows, np.zeros(-len(rows) % RANKS)], (-(-len(rows) // RANKS), RANKS)).T
        )
    return total


def in_order(lengths):
    "Micro-batches of 16 records as they come, the first to the first rank"
    return waited(ROWS * lengths.reshape(-1, RANKS, ROWS).max(axis=2).T)


def useful(steps, cfg):
    "Shares of useful tokens of every way, for the records of these steps"
    import torch
    from transformers.trainer_pt_utils import get_length_grouped_indices

    everything = steps.ravel()
    grouped = get_length_grouped_indices(
        everything.tolist(),
        ROWS * len(steps[0]) // (RANKS * ROWS),
        generator=torch.Generator().manual_seed(0),
    )
    (ours, row), (padded, _) = of_plans(steps, cfg), of_plans(steps, replace(cfg, pack=False))
    tokens = dict(
        useful=ours,
        greedy=greedy(steps, cfg),
        groups=in_order(everything[grouped]),
        padded=padded,
        random=in_order(everything),
    )
    return {way: everything.sum() / t for way, t in tokens.items()} | dict(row=row)


def demo_steps(arch, n, cfg):
    "Lengths of the demo's records [n, records of a step], in training's order, scaled to the mean"
    from protein_llm.config import from_preset
    from protein_llm.runs.data import RunData
    from protein_llm.text.packing import step_records

    store = RunData(from_preset("tiny", arch=arch)).tokens
    lengths = store.lengths(np.arange(len(store)))
    scaled = np.rint(lengths * MEAN / lengths.mean()).astype(int)
    return np.stack([scaled[step_records(len(scaled), s, cfg)] for s in range(n)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps, the same bar")
    args = parser.parse_args()
    from protein_llm.config import from_preset

    n, bars = (QUICK_STEPS, QUICK_BARS) if args.quick else (STEPS, BARS)
    cfg = from_preset("qwen3_8b").train
    figures = {}
    for name, steps in dict(
        drawn=draw(n * cfg.batch_records).reshape(n, -1),
        demo_text=demo_steps("text", n, cfg),
        demo_bridge=demo_steps("mlp", n, cfg),
    ).items():
        found = useful(steps, cfg)
        print(
            f"{name}: {n} steps of {cfg.batch_records} records, "
            f"lengths {steps.mean():.0f} +- {steps.std():.0f}, {steps.min()} to {steps.max()}: "
            + ", ".join(f"{way} {x:.4f}" for way, x in found.items())
        )
        figures |= found if name == "drawn" else {name: found["useful"]}
    ok = all(figures[k] >= bar for k, bar in bars.items())
    figures = {k: float(f"{v:.4g}") for k, v in figures.items()}
    print(json.dumps(dict(bench="utilisation", figures=figures, bars=bars, ok=ok)))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
