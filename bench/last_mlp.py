"""Training steps in which the last layer's MLP computes only tokens that predict an answer, against the same steps
with all of them.

`python bench/last_mlp.py` takes steps of 64 records of the default corpus, for text, mlp and blind; `--quick` is the
same with 120 proteins, 32 records and fewer steps, and smaller bars. Both sides are this project's packed step with
the same model, records and optimizer, in one process, in turns on one thread; the CPU time of a step counts, the
minimum over steps. Asserted first: mean losses agree to 1e-5, gradients to 1e-4 of their norm. The tiny language model
has four layers; of a model with thirty-six the last MLP is a ninth of that share.
"""

from step_sides import compare, run_bench

BARS = dict(text=1.08, mlp=1.04, blind=1.04)
QUICK_BARS = dict(text=1.03, mlp=1.0, blind=1.0)


def switch(model, on):
    model.is_narrow = on


def figures_of(arch, changes, steps):
    "Ratio of an arm's times"
    ratio, *_ = compare(arch, changes, steps, switch)
    return {arch: ratio}


if __name__ == "__main__":
    run_bench("last_mlp", __doc__, BARS, QUICK_BARS, figures_of)
