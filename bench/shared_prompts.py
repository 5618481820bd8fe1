"""Training steps in which records of one protein compute the beginning of their prompts once, against the same
records apart.

`python bench/shared_prompts.py` takes steps of 64 records of the default corpus, for text and mlp; `--quick` is the
same with 120 proteins, 32 records and fewer steps, and smaller bars. Both sides are this project's packed step with
the same model, records and optimizer, in one process, in turns on one thread; the CPU time of a step counts, the
minimum over steps. Asserted first: mean losses agree to 1e-5, gradients to 1e-4 of their norm. `tokens` is how many
times as many tokens the records apart compute.
"""

from step_sides import compare, run_bench

from protein_llm.text import packing

BARS = dict(text=2.0, mlp=1.1)
QUICK_BARS = dict(text=1.5, mlp=1.0)
TOGETHER = packing.LEAST_SHARED
APART = 10**9  # more than any two prompts begin alike with


def switch(model, on):
    packing.LEAST_SHARED = TOGETHER if on else APART


def figures_of(arch, changes, steps):
    "Ratios of an arm: time and tokens"
    ratio, shared, apart = compare(arch, changes, steps, switch)
    return {arch: ratio, f"{arch}_tokens": apart["tokens"] / shared["tokens"]}


if __name__ == "__main__":
    run_bench("shared_prompts", __doc__, BARS, QUICK_BARS, figures_of)
