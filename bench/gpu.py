"""Training steps, encoding and decoding at the published sizes with random weights on one GPU: ours beside stock loops.

`python bench/gpu.py` takes one CUDA device of 80 GB or more and prints a table, a row a setting; `--quick` leaves out
the second size, checkpointing and all but one setting of each side. `--small` is the same code at toy sizes, on a CPU
too: it says that the script runs and that losses agree, and nothing about speed.

Training: records of about 220 tokens, of which 45 percent are answers, 128 a step, a random Qwen3 in bfloat16 under
LoRA of rank 8 with dropout 0.05. `stock` is PEFT's LoRA on transformers' model with its own attention, padded
micro-batches, logits of all tokens; `grouped` sorts a step's records by length and computes layers again in the
backward pass; `liger` is the same with Liger's kernels, where that package is installed. They read plain ids, as our
arm `text` does; before anything is timed all of them give the loss of the first step to 2e-3 (`--small`: 1e-4), with
dropout off. Our other arms read features of width 1,536 from a store that lies in memory. The last of three steps
counts, once the device has done it.
MFU counts what a step must compute: two products with the frozen weights, three with those that are trained, causal
attention, the head at answers (`step_flops`); `all` counts six operations a parameter and token, as others do. Both
over the data sheet's bfloat16 peak.
Encoding: ESM-3's published width, depth and heads in bfloat16, proteins of the shipped corpus; beside it the `esm`
package's class in fours, in float32.
Decoding: 64 new tokens to prompts of 150, 128 answers at a time; beside it transformers' `generate` on as many equal
rows without an adapter.

Bars are goals; nobody has run this on a GPU yet.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from train_step import SPECIAL, make_tokenizer

QWEN3 = dict(vocab_size=151_936, head_dim=128, num_attention_heads=32, num_key_value_heads=8)
SIZES = {
    "8B": QWEN3 | dict(hidden_size=4_096, intermediate_size=12_288, num_hidden_layers=36),
    "4B": QWEN3 | dict(hidden_size=2_560, intermediate_size=9_728, num_hidden_layers=36, tie=True),
    "toy": dict(
        vocab_size=512,
        head_dim=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
    ),
}
RECORDS, TEXT_TOKENS = 128, 544
PEERS = dict(stock=(4, False), grouped=(16, True), liger=(32, True))  # rows, layers again
TOKENS = (8_192, 16_384)  # of our micro-batch
BARS = dict(mlp_mfu=0.45, mlp_gb=60.0, over_stock=4.5, decoding=8.0, encoding=8.0)


@dataclass(frozen=True)
class Scale:
    "What is measured"

    device: str
    dtype: torch.dtype
    sizes: tuple  # Names in `SIZES`, the first has peers
    records: int  # Of a step
    width: int  # Of the encoder's features
    residues: int  # Of a protein, at most
    tokens: tuple  # Of our micro-batch
    slots: int  # Answers at a time
    new: int  # Tokens of an answer
    error: float  # Largest difference of losses
    bridge: dict  # Sizes of the mlp arm


def scale(small, quick):
    "The table's sizes, or toy ones"
    if small:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        bridge = dict(n_tokens=4, d_bridge=32, heads=4)
        sizes = ("toy", torch.float32, ("toy",), 8, 24, 40, (1_024,), 4, 6, 1e-4, bridge)
        return Scale(device, *sizes[1:])
    sizes, tokens = (("8B",), TOKENS[-1:]) if quick else (("8B", "4B"), TOKENS)
    bridge = dict(n_tokens=32, d_bridge=5_120, heads=8)
    return Scale(
        "cuda", torch.bfloat16, sizes, RECORDS, 1_536, 1_000, tokens, 128, 64, 2e-3, bridge
    )


def wait(at):
    if at.device == "cuda":
        torch.cuda.synchronize()


def clean(at):
    "Free what is not used any more; the peak begins anew"
    gc.collect()
    if at.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gb(at):
    return torch.cuda.max_memory_allocated() / 2**30 if at.device == "cuda" else 0.0


# ---------------------------------------------------------------- what is trained on


def make_records(at, vocab, text=False, seed=0):
    "Ids of each record and how many of them are prompt"
    rng = np.random.default_rng(seed)
    small = at.records < RECORDS
    prompt = rng.integers(40, 60, at.records) if small else rng.integers(90, 151, at.records)
    if text and not small:
        prompt = prompt + TEXT_TOKENS - 220
    answer = rng.lognormal(np.log(10 if small else 70), 0.8, at.records).astype(int)
    answer = answer.clip(4, 30 if small else 800)
    low = len(SPECIAL)
    return [
        (rng.integers(low, vocab, p + a).tolist(), int(p))
        for p, a in zip(prompt, answer, strict=True)
    ]


def with_protein(records, n_tokens):
    "The same with a protein at the beginning of each prompt: start, a placeholder a token, end"
    start, place, end = (SPECIAL.index(t) for t in SPECIAL[2:])
    block = [start, *[place] * n_tokens, end]
    return [(block + ids[len(block) :], p) for ids, p in records]


class Features:
    "Features that lie in memory, of proteins of random lengths; the interface of `FeatureStore`"

    flat = ()  # they are kept: nothing is to be encoded

    def __init__(self, at, n):
        from protein_llm.proteins.features import FeatureStore

        rng = np.random.default_rng(1)
        self.d = at.width
        lengths = rng.integers(at.residues // 3, at.residues + 1, n).tolist()
        self.found = [torch.randn(length, at.width).half() for length in lengths]
        self.mean, self.std = torch.zeros(at.width), torch.ones(at.width)
        self.batch = lambda ids, raw=False: FeatureStore.batch(self, ids, raw)

    def residues(self, protein_ids):
        return [self.found[int(p)] for p in protein_ids]


def token_store(records, folder, has_protein):
    "A token store of these records, each of a protein of its own"
    import polars as pl

    from protein_llm.text.prompts import TokenStore, write_index

    folder.mkdir()
    n = len(records)
    lengths = np.array([len(ids) for ids, _ in records])
    prompts = np.array([p for _, p in records])
    end = 1 + lengths.cumsum()
    np.array([0, *(i for ids, _ in records for i in ids)], np.int32).tofile(folder / "ids.bin")
    parts = [end - lengths, *([end - lengths + 1] if has_protein else []), end - lengths + prompts]
    names = pl.Series(map(str, range(n)))
    owners = np.arange(n)[:, None] if has_protein else np.zeros((n, 1))
    write_index(folder, [names], names, owners, np.stack([*parts, end], 1), {})
    return TokenStore(folder)


# ---------------------------------------------------------------- sides


def fresh_llm(at, name, attention):
    "The same random frozen weights at every call, drawn on the device"
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = dict(SIZES[name])
    config = Qwen3Config(
        **{k: v for k, v in shape.items() if k != "tie"},
        tie_word_embeddings=shape.get("tie", False),
        pad_token_id=0,
        eos_token_id=1,
        protein_tokens_trained=True,  # no rows of their own: as many parameters as the peers
    )
    torch.manual_seed(0)
    with torch.device(at.device):
        llm = Qwen3ForCausalLM._from_config(config, attn_implementation=attention, dtype=at.dtype)
    return llm.requires_grad_(False)


def lora_state(names, shapes):
    "Weights of LoRA by name: the same for every side"
    rng = torch.Generator().manual_seed(2)
    return {
        n: 0.02 * torch.randn(s, generator=rng) for n, s in sorted(zip(names, shapes, strict=True))
    }


def plain_name(name):
    "How a parameter of LoRA is called, whatever it is wrapped in"
    return name[name.index("layers.") :]


def set_lora(model):
    "Give a model's adapters their weights"
    named = {plain_name(n): p for n, p in model.named_parameters() if ".lora_" in n}
    state = lora_state(named, [p.shape for p in named.values()])
    with torch.no_grad():
        for name, p in named.items():
            p.copy_(state[name])


def stock_step(at, kind, name, records, steps, dropout):
    "A stock loop: loss of the first step, seconds of the last, peak memory"
    from peft import LoraConfig, get_peft_model
    from torch.nn.utils.rnn import pad_sequence

    from protein_llm.model.llm import LORA_TARGETS

    rows, again = PEERS[kind]
    llm = fresh_llm(at, name, "sdpa")
    if kind == "liger":
        from liger_kernel.transformers import apply_liger_kernel_to_qwen3

        apply_liger_kernel_to_qwen3(model=llm)
    how = dict(r=8, lora_alpha=16, lora_dropout=dropout, target_modules=list(LORA_TARGETS))
    model = get_peft_model(llm, LoraConfig(**how, task_type="CAUSAL_LM")).train()
    set_lora(model)
    if again:
        model.gradient_checkpointing_enable(dict(use_reentrant=False))
        model.enable_input_require_grads()
    trained = [p for p in model.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(trained, lr=1e-4, fused=at.device == "cuda")
    if kind != "stock":
        records = sorted(records, key=lambda r: len(r[0]))
    answers, losses, times = sum(len(ids) - p for ids, p in records), [], []
    for _ in range(steps):
        wait(at)
        began, total = time.perf_counter(), 0.0
        for k in range(0, len(records), rows):
            some = records[k : k + rows]
            ids = pad_sequence([torch.tensor(ids) for ids, _ in some], batch_first=True)
            labels = [torch.tensor([-100] * p + ids[p:]) for ids, p in some]
            labels = pad_sequence(labels, batch_first=True, padding_value=-100)
            seen = torch.arange(ids.shape[1]) < torch.tensor([len(i) for i, _ in some])[:, None]
            ids, labels, seen = (z.to(at.device) for z in (ids, labels, seen.long()))
            with torch.autocast(at.device, torch.bfloat16, enabled=at.dtype == torch.bfloat16):
                loss = model(
                    input_ids=ids,
                    attention_mask=seen,
                    labels=labels,
                    num_items_in_batch=answers,
                    use_cache=False,
                ).loss
            loss.backward()
            total += loss.item()
        opt.step()
        opt.zero_grad()
        wait(at)
        times.append(time.perf_counter() - began)
        losses.append(total)
    return losses[0], times[-1], peak_gb(at)


def our_config(at, arch, tokens, again, dropout, longest):
    "The run's configuration of our side"
    from protein_llm.config import ModelConfig, RunConfig, TrainConfig

    bridge = at.bridge if arch in ("mlp", "perceiver") else {}
    if arch == "perceiver":
        bridge = bridge | dict(d_bridge=bridge["heads"] * 128 if at.records == RECORDS else 32)
    model = ModelConfig(arch=arch, lora_r=8, lora_alpha=16, lora_dropout=dropout, **bridge)
    train = TrainConfig(
        steps=10,
        warmup=0,
        batch_records=at.records,
        batch_tokens=max(tokens, longest),
        max_tokens=max(2_048, longest),
        lr=1e-4,
        lr_bridge=1e-4,
        precision=str(at.dtype).removeprefix("torch."),
        checkpoint_activations=again,
    )
    return RunConfig(model=model, train=train)


def our_step(at, name, arch, records, tokens, steps, dropout, folder, again=False):
    "Our step: loss of the first, the log's line of the last, seconds, peak memory"
    from protein_llm.model import build_model
    from protein_llm.runs.run import Run
    from protein_llm.training.parallel import make_accelerator
    from protein_llm.training.step import make_optimizer, train_step

    longest = max(len(ids) for ids, _ in records)
    cfg = our_config(at, arch, tokens, again, dropout, longest)
    reads = cfg.model.reads_features
    llm = fresh_llm(at, name, "records")
    model = build_model(cfg.model, at.width, make_tokenizer(), at.device, llm=llm).train()
    set_lora(model)
    if again:
        model.enable_checkpointing()
    store = token_store(records, folder / f"{name}-{arch}-{len(list(folder.iterdir()))}", reads)
    data = SimpleNamespace(tokens=store, reads_features=reads)
    if reads:
        data.features = Features(at, len(records))
    opt, acc = make_optimizer(model, cfg.train), make_accelerator(Run(cfg))
    lines, times, chosen = [], [], np.arange(len(records))
    for k in range(steps):
        wait(at)
        began = time.perf_counter()
        lines.append(train_step(model, opt, k, chosen, data, cfg.train, acc))
        wait(at)
        times.append(time.perf_counter() - began)
    return lines[0]["loss"], lines[-1], times[-1], peak_gb(at)


# ---------------------------------------------------------------- the table


def row(table, name, at, records, seconds, gb, mfu=None, parameters=None):
    "One row, printed as it comes"
    tokens = sum(len(ids) for ids, _ in records)
    line = dict(row=name, samples_s=len(records) / seconds, tokens_s=tokens / seconds, gb=gb)
    if mfu is not None:
        line["mfu"] = mfu
    if parameters and at.device == "cuda":
        from protein_llm.training.throughput import peak_flops

        line["mfu_all"] = 6 * parameters * tokens / seconds / peak_flops("cuda:0", "bfloat16")
    table.append({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()})
    print(json.dumps(table[-1]), flush=True)


def require_equal(losses, most):
    "The losses of all sides, which read the same records with the same weights"
    values = list(losses.values())
    assert max(values) - min(values) <= most, f"losses differ: {losses}"
    print(f"losses of {len(values)} settings agree: {losses}", flush=True)


def compare_losses(at, name, peers, records, folder):
    "Loss of one step of each side, dropout off"
    losses = {}
    for kind in peers:
        losses[kind], *_ = stock_step(at, kind, name, records, 1, 0.0)
        clean(at)
    for again in (False, True):
        how = (at.tokens[-1], 1, 0.0, folder, again)
        losses[f"ours, again={again}"], *_ = our_step(at, name, "text", records, *how)
        clean(at)
    require_equal(losses, at.error)


def parameters_of(name):
    "Of a language model, embeddings included once"
    s = SIZES[name]
    d, f, h = s["hidden_size"], s["intermediate_size"], s["head_dim"]
    layer = d * h * (2 * s["num_attention_heads"] + 2 * s["num_key_value_heads"]) + 3 * d * f
    return s["num_hidden_layers"] * layer + s["vocab_size"] * d * (1 if s.get("tie") else 2)


def training(at, table, quick, folder):
    "Rows of training"
    vocab = SIZES[at.sizes[0]]["vocab_size"]
    plain = make_records(at, vocab)
    kinds = [k for k in PEERS if k != "liger" or find_spec("liger_kernel")]
    kinds = kinds[-1:] if quick else kinds
    compare_losses(at, at.sizes[0], kinds, plain, folder)
    for kind in kinds:
        _, seconds, gb = stock_step(at, kind, at.sizes[0], plain, 2, 0.05)
        row(table, kind, at, plain, seconds, gb, parameters=parameters_of(at.sizes[0]))
        clean(at)
    for name in at.sizes:
        for arch in ("mlp",) if quick or name != at.sizes[0] else ("mlp", "perceiver", "text"):
            records = make_records(at, vocab, text=arch == "text")
            if arch != "text":
                records = with_protein(records, at.bridge["n_tokens"])
            settings = [(t, False) for t in at.tokens]
            settings += [] if quick or arch != "mlp" else [(at.tokens[-1], True)]
            for tokens, again in settings:
                how = (at, name, arch, records, tokens, 3, 0.05, folder, again)
                _, line, seconds, gb = our_step(*how)
                label = f"{name} {arch} {tokens}{' again' if again else ''}"
                row(table, label, at, records, seconds, gb, line["mfu"], parameters_of(name))
                clean(at)


def decoding(at, table):
    "New tokens a second: ours, and transformers' `generate`"
    from protein_llm.config import ModelConfig
    from protein_llm.model import Decoding, build_model
    from protein_llm.text.packing import Batch

    name, n = at.sizes[0], 2 * at.slots
    rng = np.random.default_rng(3)
    length = 150 if at.records == RECORDS else 20
    vocab = SIZES[name]["vocab_size"]
    ids = torch.from_numpy(rng.integers(len(SPECIAL), vocab, (n, length)))
    model = build_model(
        ModelConfig(arch="text", lora_r=8, lora_alpha=16),
        0,
        make_tokenizer(),
        at.device,
        llm=fresh_llm(at, name, "records"),
    ).eval()

    def prompts(some):
        x = ids[some]
        place = torch.arange(length).expand(len(some), -1)
        record = torch.arange(len(some))[:, None].expand(-1, length)
        none = torch.full_like(x, -1)
        batch = Batch(x, place, record, none - 99, none, None, None, list(some))
        return batch.to(at.device)

    how = Decoding(at.new, slots=at.slots, read=min(32, at.slots))
    with torch.autocast(at.device, torch.bfloat16, enabled=at.dtype == torch.bfloat16):
        wait(at)
        began = time.perf_counter()
        answers = model.answers(prompts, range(n), how, eos_id=-1)
        wait(at)
        ours = sum(len(a.tokens) for a in answers) / (time.perf_counter() - began)
    del model
    clean(at)
    llm = fresh_llm(at, name, "sdpa").eval()
    rows = ids[: at.slots].to(at.device)
    wait(at)
    began = time.perf_counter()
    made = llm.generate(
        rows,
        attention_mask=torch.ones_like(rows),
        do_sample=False,
        max_new_tokens=at.new,
        min_new_tokens=at.new,
        pad_token_id=0,
    )
    wait(at)
    theirs = (made.shape[1] - length) * at.slots / (time.perf_counter() - began)
    for side, speed in (("decoding, ours", ours), ("decoding, generate", theirs)):
        table.append(dict(row=side, tokens_s=round(speed, 1)))
        print(json.dumps(table[-1]), flush=True)
    clean(at)
    return ours / theirs


def encoding(at, table):
    "Residues a second: ours in bfloat16, and the stock class in fours in float32"
    from encoder import batches, proteins
    from esm.models.esm3 import ESM3
    from esm.tokenization import EsmSequenceTokenizer

    from protein_llm.proteins.encoder import ESM3Encoder

    shape = (at.width, 24, 256, 48) if at.records == RECORDS else (at.width, 2, 4, 2)
    sequences = proteins(256 if at.records == RECORDS else 12, at.residues)
    residues = sum(map(len, sequences))
    torch.manual_seed(0)
    tokenizers = SimpleNamespace(sequence=EsmSequenceTokenizer())
    stock = ESM3(*shape, None, None, None, tokenizers).eval().requires_grad_(False).to(at.device)
    few = sequences[:: max(1, len(sequences) // 32)]
    speeds = {}
    with torch.no_grad():
        for timed in (False, True):
            wait(at)
            began = time.perf_counter()
            for ids in batches(few, 4):
                ids = ids.to(at.device)
                stock(sequence_tokens=ids, sequence_id=torch.where(ids == 1, -1, 0))
            wait(at)
            if timed:
                speeds["stock"] = sum(map(len, few)) / (time.perf_counter() - began)
        ours = ESM3Encoder(stock, "random weights", at.device, at.dtype)
        for timed in (False, True):
            wait(at)
            began = time.perf_counter()
            ours.encode(sequences)
            wait(at)
            if timed:
                speeds["ours"] = residues / (time.perf_counter() - began)
    for side, speed in speeds.items():
        table.append(dict(row=f"encoding, {side}", residues_s=round(speed, 1)))
        print(json.dumps(table[-1]), flush=True)
    return speeds["ours"] / speeds["stock"]


def figures_of(table, ratios):
    "What the bars are about"
    ours = [r for r in table if " mlp " in r["row"] and "again" not in r["row"]]
    best = max(ours, key=lambda r: r["samples_s"])
    stock = max(r["samples_s"] for r in table if r["row"] in PEERS)
    found = dict(mlp_mfu=best["mfu"], mlp_gb=best["gb"], over_stock=best["samples_s"] / stock)
    return {k: round(v, 3) for k, v in (found | ratios).items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer settings")
    parser.add_argument("--small", action="store_true", help="toy sizes, on a CPU too")
    args = parser.parse_args()
    if not args.small and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device: --small runs the same code at toy sizes")
    os.environ |= dict(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    at, table, ratios = scale(args.small, args.quick), [], {}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        training(at, table, args.quick, Path(folder))
    ratios["decoding"] = decoding(at, table)
    ratios["encoding"] = encoding(at, table)
    figures = figures_of(table, ratios)
    bars = {} if args.small else BARS
    ok = all(figures[k] <= v if k.endswith("_gb") else figures[k] >= v for k, v in bars.items())
    figures["minutes"] = round((time.perf_counter() - began) / 60, 1)
    print(json.dumps(dict(bench="gpu", figures=figures, bars=bars, ok=ok)))
    sys.exit(not ok)


if __name__ == "__main__":
    main()
