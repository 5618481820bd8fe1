"""A whole step of bridge training (`mlp`: attention pooling, then an MLP) as the published run made it, against ours.

`python bench/end_to_end.py` takes 2 optimizer steps of 16 records with a vocabulary of 2,048, and again with 151,936;
`--quick` takes 4 records a step, and has bars of its own. float32 on a CPU, two threads on each side. About 190
tokens a record, 32 of them protein tokens, a third answers; each record has a protein of its own, drawn from the
shipped Swiss-Prot FASTA, up to 600 residues.
Both sides have the same records in the same order, the same weights (a small ESM-3 and a Qwen3 of `train_step.py`'s
shape, both random; bridge; LoRA of rank 8), AdamW, schedule and clipping. Before anything is timed, the loss of every
step has to be the same to 1e-3 (absolute) in every setting of every side.
The peer, `live`: at each step the `esm` package's stock class encodes the proteins of a micro-batch, four at a time
and padded; then padded text with a mask, transformers' Qwen3, PEFT's LoRA, float32 logits of all tokens. The faster
of 4 and 8 records a micro-batch counts. It gets two things that keep the losses equal: `sequence_id`, without which
embeddings of a padded batch are wrong, and the mean and standard deviation of our store.
Ours: features from a store (float16), packed rows, fused LoRA, the head at answers in blocks: `train_step`, as the
runs call it. The fastest of 1,024, 2,048 and 4,096 tokens a row counts.

`v2048` and `v151936` have the bars: the peer's wall clock over that of our steps and their share of building the
store, which is the build over 3 epochs and 7.5 records a protein (the published run's), since that is what a run pays
a record.
`_steps` leaves the build out; `_once` charges all of it, as if each protein were needed once. `_cpu`: the same in CPU
seconds, which other work on the machine disturbs less. Of each step the fastest of three rounds (`--quick`: two),
sides in turns.
`_alone` is the peer at one record a micro-batch: no fours and no padding, which a GPU would not bear, but on a CPU
nothing is lost by it. `_plain` is the peer whose ESM-3 has lost its geometric attention and its output heads,
`_stored` the peer that reads our store: what packing, LoRA and head give. `_floor` is our steps over the bare matrix
products of `train_step.py`'s `floor`, taken in every round.

What is CPU-specific: geometric attention, which adds zero where no structure is given, is memory traffic of [4, 64,
L, L, 3]; here it is in one of 4 narrow blocks and takes most of the peer's encoder, in ESM-3 itself in one of 48 wide
ones, where a GPU would spend a few percent of the time on it (an estimate from the bytes moved, not measured). Output
heads are half of the small encoder's linear weights, and 2 percent of ESM-3's. Apart from these two, the encoder has
about the share of the products that ESM-3 has beside Qwen3-8B (a fifth, against a sixth), so that `_plain` says more
about full size than the figures with bars.
`--gpu` is the same comparison on a CUDA device: ESM-3 at its published width, depth and heads in float32, a
Qwen3-0.6B in bfloat16 with autocast on both sides (`train_step.py`), V=151,936 alone, larger steps and micro-batches,
losses within 1e-2. Nobody has run it on a GPU yet.
"""

import argparse
import copy
import json
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import train_step as base
from encoder import proteins
from torch import nn
from train_step import SPECIAL, clock, floor, fresh_model, make_records, make_tokenizer

BARS = dict(v2048=8.0, v151936=10.0)
# 15 % below the first quick run: a guard against getting slower, not the goal
QUICK_BARS = dict(v2048=5.0, v151936=4.9)
# Records of an optimizer step, steps, rounds
RECORDS, QUICK_RECORDS, STEPS, ROUNDS, QUICK_ROUNDS = (16, 4, 2, 3, 2)
ROWS, QUICK_ROWS = (4, 8), (4,)  # Records of the peer's micro-batch
PACKS, QUICK_PACKS = (1_024, 2_048, 4_096), (1_024,)  # Tokens of our packed row
# Width of the encoder; protein tokens, width of the MLP, heads of the pooling
D, TOKENS, HIDDEN, HEADS = (128, 32, 256, 8)
BLOCKS = 4, 64, 4  # Of the encoder: heads, heads of the geometric attention, layers
# Sizes of the vocabulary; largest difference of a step's loss
VOCABS, ERROR = ((2_048, 151_936), 1e-3)
# What `--gpu` puts in the place of these
GPU = dict(
    D=1_536,
    BLOCKS=(24, 256, 48),
    VOCABS=(151_936,),
    ERROR=1e-2,
    RECORDS=64,
    ROWS=(8, 16, 32),
    PACKS=(4_096, 8_192, 16_384),
)
EPOCHS, A_PROTEIN = 3, 7.5  # Of the published run: epochs, and records that share a protein


def make_encoder():
    "A small ESM-3 of the `esm` package with random weights"
    from esm.models.esm3 import ESM3
    from esm.tokenization import EsmSequenceTokenizer

    torch.manual_seed(0)
    return (
        ESM3(D, *BLOCKS, None, None, None, SimpleNamespace(sequence=EsmSequenceTokenizer()))
        .eval()
        .requires_grad_(False)
        .to(base.DEVICE)
    )


class NoHeads(nn.Module):
    "In the place of ESM-3's output heads"

    def forward(self, x, embeddings, attentions=None):
        return SimpleNamespace(embeddings=embeddings)


def without_extras(stock):
    "The stock class without what its embeddings do not need: geometric attention, output heads"
    plain = copy.deepcopy(stock)
    plain.transformer.blocks[0].use_geom_attn = False
    plain.output_heads = NoHeads()
    return plain


def with_proteins(records):
    "Each prompt with a protein in it: start, one placeholder a token, end"
    start, place, end = (SPECIAL.index(t) for t in SPECIAL[2:])
    return [
        (ids[:20] + [start, *[place] * TOKENS, end] + ids[22 + TOKENS :], p) for ids, p in records
    ]


# ---------------------------------------------------------------- sides: (data, setting) -> loss of each step [steps];
# seconds of each, wall and CPU [steps, 2]


def ours(data, tokens):
    "`train_step` over a token store and a feature store"
    from dataclasses import replace

    from protein_llm.model import build_model
    from protein_llm.model.parts import trainable_parts
    from protein_llm.runs.run import Run
    from protein_llm.training.parallel import make_accelerator
    from protein_llm.training.step import make_optimizer, train_step

    cfg = replace(data.cfg, train=replace(data.cfg.train, batch_tokens=tokens))
    llm = fresh_model("records", data.vocab)
    lora = {n: p for n, p in llm.named_parameters() if p.requires_grad}
    bare = llm.unload()
    bare.config.protein_tokens_trained = (
        True  # no rows of their own: the same parameters as the peer's
    )
    model = build_model(cfg.model, D, make_tokenizer(), base.DEVICE, llm=bare).train()
    state = {n: lora[n.removeprefix("llm.")] for n, _ in trainable_parts(model)["lora"]} | {
        f"bridge.{n}": p for n, p in data.bridge.items()
    }
    model.set_trained_state(state, "here")
    opt, acc, losses, times = (
        make_optimizer(model, cfg.train),
        make_accelerator(Run(cfg)),
        [],
        [clock()],
    )
    for k in range(STEPS):
        losses.append(
            train_step(model, opt, k, np.array(data.steps[k]), data, cfg.train, acc)["loss"]
        )
        times.append(clock())
    return losses, np.diff(times, axis=0)


class StockBridge(nn.Module):
    "The same bridge from torch's own layers"

    def __init__(self, state):
        super().__init__()
        self.queries, self.attn, self.norm = (
            nn.Parameter(torch.empty(TOKENS, D)),
            nn.MultiheadAttention(D, HEADS, batch_first=True),
            nn.LayerNorm(D),
        )
        self.mlp = nn.Sequential(
            nn.Linear(D, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, base.SHAPE["hidden_size"])
        )
        self.load_state_dict({n.removeprefix("pool."): p for n, p in state.items()})

    def forward(self, features, mask):
        seen, _ = self.attn(
            self.queries.expand(len(features), -1, -1),
            features,
            features,
            key_padding_mask=~mask,
            need_weights=False,
        )
        return self.mlp(self.norm(seen + self.queries * D**0.5))


@torch.no_grad()
def live(encoder, sequences):
    "Features of a micro-batch from the stock class, padded four at a time; `sequence_id` marks the padding"
    found = []
    for i in range(0, len(sequences), 4):
        ids = nn.utils.rnn.pad_sequence(sequences[i : i + 4], batch_first=True, padding_value=1).to(
            base.DEVICE
        )
        h = encoder(sequence_tokens=ids, sequence_id=torch.where(ids == 1, -1, 0)).embeddings
        # without BOS, EOS and padding
        found += [row[kept] for row, kept in zip(h, ids > 2, strict=True)]
    return found


def peer(kind, data, rows):
    "Stock classes: padded micro-batches, PEFT's LoRA, logits of all tokens"
    from torch.nn.utils.rnn import pad_sequence
    from transformers import get_cosine_schedule_with_warmup

    llm, bridge, t = (
        fresh_model("sdpa", data.vocab).train(),
        StockBridge(data.bridge).to(base.DEVICE).train(),
        data.cfg.train,
    )

    def here(t):
        return t.to(base.DEVICE)

    place = SPECIAL.index("<|protein|>")
    groups = [
        dict(params=list(bridge.parameters()), lr=t.lr_bridge),
        dict(params=[p for p in llm.parameters() if p.requires_grad], lr=t.lr),
    ]
    trained = [p for g in groups for p in g["params"]]
    opt = torch.optim.AdamW(groups, weight_decay=t.weight_decay)
    schedule = get_cosine_schedule_with_warmup(opt, 0, t.steps)

    def features(at):
        if kind == "stored":
            found = [f.float() for f in data.features.residues([str(i) for i in at])]
        else:
            found = live(data.encoders[kind], [data.ids[i] for i in at])
        x = pad_sequence(
            [(here(f) - here(data.features.mean)) / here(data.features.std) for f in found],
            batch_first=True,
        )
        return x, here(torch.arange(x.shape[1]) < torch.tensor([len(f) for f in found])[:, None])

    losses, times = [], [clock()]
    for step in data.steps:
        answers, total = sum(len(data.records[i][0]) - data.records[i][1] for i in step), 0.0
        for at in (step[i : i + rows] for i in range(0, len(step), rows)):
            ids = here(
                pad_sequence([torch.tensor(data.records[i][0]) for i in at], batch_first=True)
            )
            labels = here(
                pad_sequence(
                    [
                        torch.tensor([-100] * p + ids[p:])
                        for ids, p in (data.records[i] for i in at)
                    ],
                    batch_first=True,
                    padding_value=-100,
                )
            )
            mask = here(
                torch.arange(ids.shape[1])
                < torch.tensor([len(data.records[i][0]) for i in at])[:, None]
            )
            seen, x = features(at), llm.get_input_embeddings()(ids)
            with torch.autocast(base.DEVICE, torch.bfloat16, enabled=base.DTYPE == "bfloat16"):
                x = x.masked_scatter((ids == place)[..., None], bridge(*seen).to(x.dtype))
                loss = llm(
                    inputs_embeds=x,
                    attention_mask=mask.long(),
                    labels=labels,
                    num_items_in_batch=answers,
                    use_cache=False,
                ).loss
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(trained, t.clip)
        opt.step()
        schedule.step()
        opt.zero_grad()
        losses.append(total)
        times.append(clock())
    return losses, np.diff(times, axis=0)


def run(side, data, setting):
    "One side, by its name"
    return (
        ours(data, setting)
        if side == "ours"
        else peer("live" if side == "alone" else side, data, setting)
    )


# ---------------------------------------------------------------- comparison


def encode(sequences, stock, folder):
    "A feature store, and the seconds, wall and CPU, that it took: the fastest of three builds"
    import pandas as pd

    from protein_llm.proteins.encoder import ESM3Encoder
    from protein_llm.proteins.features import FeatureStore, build_features

    encoder, table, spent = (
        ESM3Encoder(stock, "random weights", base.DEVICE),
        pd.DataFrame(dict(protein_id=[str(i) for i in range(len(sequences))], sequence=sequences)),
        [],
    )
    for k in range(ROUNDS):
        began = clock()
        store = build_features(table, encoder, folder / f"features{k}", progress=False)
        spent.append(np.subtract(clock(), began))
    return FeatureStore(store), np.min(spent, axis=0)


def make_data(vocab, a_step, features, encoders, sequences, folder):
    "What both sides train on, and how"
    import polars as pl

    from protein_llm.config import ModelConfig, RunConfig, TrainConfig
    from protein_llm.model.bridges import make_bridge
    from protein_llm.proteins.encoder import pack_sequences
    from protein_llm.text.prompts import TokenStore, write_index

    n = a_step * STEPS
    records = with_proteins(make_records(n, False, vocab))
    folder /= f"tokens{vocab}"
    folder.mkdir()
    lengths, prompts = np.array([len(ids) for ids, _ in records]), np.array([p for _, p in records])
    end = 1 + lengths.cumsum()
    np.array([0, *(i for ids, _ in records for i in ids)], np.int32).tofile(folder / "ids.bin")
    names = pl.Series(map(str, range(n)))
    write_index(
        folder,
        [names],
        names,
        np.arange(n)[:, None],
        np.stack([end - lengths, end - lengths + 21, end - lengths + prompts, end], 1),
        {},
    )
    cfg = RunConfig(
        model=ModelConfig(arch="mlp", n_tokens=TOKENS, d_bridge=HIDDEN, heads=HEADS),
        train=TrainConfig(
            steps=STEPS + 1, warmup=0, batch_records=a_step, max_tokens=1_024, precision=base.DTYPE
        ),
    )
    torch.manual_seed(1)
    return SimpleNamespace(
        vocab=vocab,
        records=records,
        steps=[range(k, k + a_step) for k in range(0, n, a_step)],
        tokens=TokenStore(folder),
        features=features,
        reads_features=True,
        encoders=encoders,
        ids=[pack_sequences([s])[0] for s in sequences],
        cfg=cfg,
        bridge=make_bridge(cfg.model, D, base.SHAPE["hidden_size"]).state_dict(),
    )


def choose(data, tried):
    "Each side's fastest setting; asserts that all of them give one loss at each step"
    losses, best = {}, {}
    for side, settings in tried.items():
        seconds = {}
        for s in settings:
            losses[side, s], spent = run(side, data, s)
            seconds[s] = spent.min(axis=0)[0]
        best[side] = min(seconds, key=seconds.get)
        print(
            f"V={data.vocab}, {side}: seconds a step by setting "
            + ", ".join(f"{s}: {t:.2f}" for s, t in seconds.items()),
            flush=True,
        )
    expected = np.array(losses["ours", tried["ours"][0]])
    error = max(np.abs(expected - loss).max() for loss in losses.values())
    assert error <= ERROR, f"V={data.vocab}: losses differ: {losses}"
    print(
        f"V={data.vocab}: losses of {STEPS} steps in {len(losses)} settings within {error:.1e} of {expected}",
        flush=True,
    )
    return best, error


def compare(data, tried, build, rounds):
    "Ratios of time; `build` is what the features of all records took, wall and CPU"
    best, error = choose(data, tried)
    times, bare = {side: [] for side in best}, []
    for _ in range(rounds):
        for side, s in best.items():
            times[side].append(run(side, data, s)[1])
        bare.append(floor(data.records, best["ours"], data.vocab))
    # of each step the fastest of the rounds [2]
    spent = {side: np.min(t, axis=0).sum(axis=0) for side, t in times.items()}
    print(
        f"V={data.vocab}: ms a record, and of CPUs: "
        + ", ".join(
            "{} {:.1f} {:.1f} (setting {})".format(side, *1000 * t / len(data.records), best[side])
            for side, t in spent.items()
        ),
        flush=True,
    )
    mine, bare, share = spent["ours"], np.min(bare, axis=0), build / (EPOCHS * A_PROTEIN)
    ratios = {
        "": spent["live"] / (mine + share),
        "_steps": spent["live"] / mine,
        "_once": spent["live"] / (mine + build),
        "_alone": spent["alone"] / (mine + share),
        "_plain": spent["plain"] / (mine + share),
        "_stored": spent["stored"] / mine,
        "_floor": mine / bare,
    }
    return {
        f"v{data.vocab}{name}{kind}": r
        for name, both in ratios.items()
        for kind, r in zip(("", "_cpu"), both, strict=True)
    } | {f"v{data.vocab}_loss_error": error}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer records")
    parser.add_argument(
        "--gpu", action="store_true", help="on a CUDA device, with ESM-3's sizes and Qwen3-0.6B's"
    )
    args = parser.parse_args()
    quick = args.quick
    if args.gpu:
        if not torch.cuda.is_available():
            sys.exit("--gpu: torch finds no CUDA device")
        globals().update(GPU)
        vars(base).update(base.GPU)
    a_step, rows, packs, bars = (
        (QUICK_RECORDS, QUICK_ROWS, QUICK_PACKS, QUICK_BARS)
        if quick
        else (RECORDS, ROWS, PACKS, BARS)
    )
    os.environ |= dict(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false") | (
        {} if args.gpu else dict(CUDA_VISIBLE_DEVICES="")
    )
    torch.set_num_threads(2)
    stock, known = make_encoder(), proteins(10**9, 600)
    sequences = [
        known[i] for i in np.random.default_rng(0).choice(len(known), a_step * STEPS, replace=False)
    ]
    small = rows if quick else (1, *rows)  # what `_plain` and `_stored` choose from
    encoders = dict(live=stock, plain=without_extras(stock))
    with tempfile.TemporaryDirectory() as d:
        features, build = encode(sequences, stock, Path(d))
        n = np.array([len(s) for s in sequences])
        print(
            f"{STEPS} steps of {a_step} records; {n.mean():.0f} residues a protein, longest {n.max()}; "
            f"features in {1000 * build[0] / len(n):.1f} ms a protein, {1000 * build[1] / len(n):.1f} of CPUs",
            flush=True,
        )
        figures = dict(build_ms=1000 * build[0] / len(n))
        for vocab in VOCABS:
            data = make_data(vocab, a_step, features, encoders, sequences, Path(d))
            figures |= compare(
                data,
                dict(ours=packs, live=rows, alone=(1,), plain=small, stored=small),
                build,
                QUICK_ROUNDS if quick else ROUNDS,
            )
    figures = {k: float(f"{v:.3g}") for k, v in figures.items()}
    bars = {f"v{v}": bars[f"v{v}"] for v in VOCABS}
    ok = all(figures[k] >= bar for k, bar in bars.items())
    print(json.dumps(dict(bench="end_to_end", figures=figures, bars=bars, ok=ok)))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
