"""Output head and loss of the answer tokens alone, against full logits as transformers' causal language models make
them.

`python bench/loss_head.py` is judged by PERF's bars; `--quick` is the same comparison with half the rows, and the
smaller bars below.
Full logits: the head over all tokens, upcast to float32, shifted cross entropy with -100 (transformers' own
`ForCausalLMLoss`). It is called both ways that people call it, with and without `num_items_in_batch`, and the faster
one counts. Ours: `answer_nll`. Both have the same weights in bfloat16, the same data, and run in this process in
turns; the minimum of `ROUNDS` rounds counts. `head` is forward and backward of head and loss alone, with the head
frozen; `step` a whole LoRA step of a Qwen3 of four layers (the shipped model's shape, d=256), AdamW included, one
model for both sides. Asserted first: losses agree to 1e-4 (absolute), the norms of the gradients to 1e-3 (relative):
of the hidden states, and of LoRA.
`memory` is the peak of what torch allocates in such a step, above what is there before it (weights, AdamW's state),
`head_memory` that of head and loss alone. Resident memory of fresh processes holds the libraries' pages and the
allocator's leftovers too; for a step it was 3,355 to 3,370 MB against 265 to 281 MB in three pairs of runs (12.0 to
12.7x) on 2 cores.
`head_gathered` has no bar: full logits of the answer tokens alone, gathered by hand, show what is left when only the
blocks are ours. On a CPU, two threads compute.
"""

import argparse
import json
import sys
import time
from itertools import accumulate

import torch
import torch.nn.functional as F

torch.set_num_threads(2)
BARS = dict(head=6.5, step=4.0, memory=12.0)
QUICK_BARS = dict(head=5.0, step=3.0, memory=6.0)
WORDS, ROWS, QUICK_ROWS = 151_936, 8, 4
T, ANSWERS, D, ROUNDS = 224, 64, 256, 5  # Tokens and answer tokens of a row, width, rounds
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def batch(rows):
    "Ids, labels and records [rows, T]: one record a row, its last tokens are the answer"
    ids = torch.randint(WORDS, (rows, T), device=DEVICE)
    return (
        ids,
        ids.masked_fill(torch.arange(T, device=DEVICE) < T - ANSWERS, -100),
        torch.arange(rows, device=DEVICE)[:, None].expand(rows, T),
    )


def our_loss(hidden, weight, labels, records):
    "The mean loss of the answer tokens, our way"
    from protein_llm.model.loss import answer_nll

    return answer_nll(hidden, weight, labels, records)[0].mean()


def head_sides(rows):
    "A function for the loss of each side, the tensors whose gradients count, and what ends a step (here nothing)"
    from transformers.loss.loss_utils import ForCausalLMLoss

    _, labels, records = batch(rows)
    weight = torch.empty(WORDS, D, dtype=torch.bfloat16, device=DEVICE).normal_(std=0.02)
    hidden = torch.randn(rows, T, D, dtype=torch.bfloat16, device=DEVICE, requires_grad=True)

    def gathered():
        kept = labels[:, 1:] != -100
        return F.cross_entropy(F.linear(hidden[:, :-1][kept], weight).float(), labels[:, 1:][kept])

    return (
        dict(
            ours=lambda: our_loss(hidden, weight, labels, records),
            full=lambda: ForCausalLMLoss(F.linear(hidden, weight), labels, WORDS),
            full_items=lambda: ForCausalLMLoss(
                F.linear(hidden, weight), labels, WORDS, num_items_in_batch=rows * ANSWERS
            ),
            gathered=gathered,
        ),
        [hidden],
        lambda: None,
    )


def step_sides(rows):
    "The same of a whole model: LoRA's gradients, and AdamW's step; all sides train the one model"
    from transformers import Qwen3Config

    from protein_llm.config import ModelConfig
    from protein_llm.model.llm import add_lora, load_llm

    shape = Qwen3Config(
        vocab_size=WORDS,
        hidden_size=D,
        intermediate_size=3 * D,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=True,
    )
    llm = add_lora(load_llm(dtype="bfloat16", device=DEVICE, config=shape), ModelConfig())
    trained = [p for p in llm.parameters() if p.requires_grad]
    for p in trained:
        # PEFT starts with zeros in B, and then no gradient reaches A
        torch.nn.init.normal_(p, std=0.02)
    ids, labels, records = batch(rows)

    def ours():
        return our_loss(
            llm.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state,
            llm.get_output_embeddings().weight,
            labels,
            records,
        )

    def full(**kw):
        return llm(input_ids=ids, labels=labels, use_cache=False, **kw).loss

    return (
        dict(ours=ours, full=full, full_items=lambda: full(num_items_in_batch=rows * ANSWERS)),
        trained,
        torch.optim.AdamW(trained, lr=1e-4).step,
    )


SIDES = dict(head=head_sides, step=step_sides)


def backward(loss_of, params):
    "Loss and its fresh gradients"
    for p in params:
        p.grad = None
    loss = loss_of()
    loss.backward()
    return loss.item()


def seconds(loss_of, params, finish):
    "Of one pass, optimizer included"
    start = time.perf_counter()
    backward(loss_of, params)
    finish()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak(loss_of, params, finish):
    "Most MB allocated during a pass, above what was there before"
    from torch.profiler import ProfilerActivity, profile

    for p in params:
        p.grad = None
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds(loss_of, params, finish)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as prof:
        seconds(loss_of, params, finish)
    changes = sorted(
        (e.start_ns(), e.nbytes())
        for e in prof.profiler.kineto_results.events()
        if e.name() == "[memory]"
    )
    return max(accumulate(n for _, n in changes)) / 2**20


def compare(name, rows):
    "Assert that all sides agree; then ratios of time, to the faster call of full logits, and of peak memory"
    torch.manual_seed(0)
    sides, params, finish = SIDES[name](rows)
    found = {}
    for side, loss_of in sides.items():
        loss = backward(loss_of, params)
        found[side] = loss, torch.cat([p.grad.flatten().double() for p in params]).norm().item()
    loss, norm = (max(abs(found["ours"][i] - x[i]) for x in found.values()) for i in (0, 1))
    norm /= found["full"][1]
    assert loss <= 1e-4, f"{name}: losses differ by {loss:.1e}"
    assert norm <= 1e-3, f"{name}: norms of the gradients differ by {norm:.1e} of the norm"
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(ROUNDS):
        for side, loss_of in sides.items():
            best[side] = min(best[side], seconds(loss_of, params, finish))
    print(
        f"{name}: losses within {loss:.1e}, norms of gradients within {norm:.1e}; ms "
        + ", ".join(f"{side} {1000 * t:,.1f}" for side, t in best.items())
    )
    full, ours = (peak(sides[side], params, finish) for side in ("full", "ours"))
    print(f"{name}: peak MB full {full:,.1f}, ours {ours:,.1f}")
    figures = {
        name: min(best["full"], best["full_items"]) / best["ours"],
        "memory" if name == "step" else "head_memory": full / ours,
    }
    return (
        figures
        | {f"{name}_loss_error": loss, f"{name}_norm_error": norm}
        | ({"head_gathered": best["gathered"] / best["ours"]} if name == "head" else {})
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows, smaller bars")
    args = parser.parse_args()
    rows, bars = (QUICK_ROWS, QUICK_BARS) if args.quick else (ROWS, BARS)
    figures = {}
    for name in SIDES:
        figures |= compare(name, rows)
    ok = all(figures[k] >= bar for k, bar in bars.items())
    figures = {k: float(f"{v:.3g}") for k, v in figures.items()}
    print(json.dumps(dict(bench="loss_head", figures=figures, bars=bars, ok=ok)))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
