"""The plan of a training against what is counted and measured: parameters, operations, kept activations, time, an H100.

`python bench/planner.py` makes five comparisons and prints them as one table; `--quick` makes the same with shorter
timings. Figures are the largest relative differences. `parameters`: 4 presets x 5 arms built on the meta device.
`flops`: 6 small decoders x 4 arms against torch's `FlopCounterMode`, one record, attention as plain products (they
compute the whole square, so the plan's causal half counts twice). `activations`: bytes that autograd is handed to keep
by a decoder layer on the meta device, at the sizes of Qwen3-8B, Qwen3-4B, SmolLM2 and tiny_lm, with and without LoRA.
`time`: CPU seconds of forward and backward passes with one thread. Ten seconds of one arm and one length of records
give the FLOP/s; that predicts the same arm at other lengths, and the other arms. The process' own seconds are taken,
since other work may run. `h100_memory` and `h100_speed`: the rows measured on one H100 (`training.plan.MEASURED`), to
which two numbers of the plan were fitted, the share of the peak and the host's time of a micro-batch;
`h100_one_kernel` is the second for the rows whose attention is one kernel, a trial that is not in the package.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
BARS = dict(flops=0.005, parameters=0.0, activations=0.03, time=0.2)
BARS |= dict(h100_memory=0.2, h100_speed=0.2, h100_one_kernel=0.2)
ARMS = ("text", "mlp", "perceiver", "flamingo")
WIDTH = 40  # of the features
BYTES_OF = 64  # tokens of a layer whose activations are counted


def built(cfg, llm, meta, dtype="float32"):
    "A model with the sizes of a shape, random weights"
    from transformers import LlamaConfig, Qwen3Config

    from protein_llm.model import build_model
    from protein_llm.model.llm import load_llm
    from protein_llm.text.prompts import load_tokenizer

    config = (Qwen3Config if llm.qk_norm else LlamaConfig)(
        hidden_size=llm.width,
        intermediate_size=llm.ffn,
        num_hidden_layers=llm.layers,
        num_attention_heads=llm.heads,
        num_key_value_heads=llm.kv_heads,
        head_dim=llm.head_dim,
        vocab_size=llm.vocab,
        tie_word_embeddings=llm.tied,
        protein_tokens_trained=llm.knows_tokens,
    )
    model = load_llm(config=config, meta=meta, dtype=dtype)
    return build_model(cfg, WIDTH, load_tokenizer("tiny_lm"), meta=meta, llm=model).train()


def batch_of(cfg, model, tokens, answers, residues, records=1):
    "A packed row of equal records, the protein first"
    import torch

    from protein_llm.text.packing import Batch

    ids = torch.randint(10, 4_000, (records, tokens))
    n = 0 if cfg.arch in ("text", "flamingo") else cfg.n_tokens or residues
    ids[:, :n] = model.ids[1]
    labels = torch.full_like(ids, -100)
    labels[:, -answers:] = ids[:, -answers:]
    at, owner = torch.arange(tokens).expand_as(ids), torch.arange(records)[:, None].expand_as(ids)
    features = torch.randn(records, residues, WIDTH) if cfg.reads_features else None
    mask = torch.ones(records, residues, dtype=bool) if cfg.reads_features else None
    flat = [z.reshape(1, -1) for z in (ids, at, owner, labels, owner)]
    return Batch(*flat, features, mask, list(range(records)))


def decoders():
    "Six small decoders"
    from protein_llm.training.plan import LLMShape

    base = LLMShape(64, 3, 4, 2, 16, 160, 4_096, tied=True, qk_norm=True)
    return dict(
        base=base,
        known=replace(base, knows_tokens=True),
        untied=replace(base, tied=False),
        llama=replace(base, qk_norm=False),
        wide=replace(base, width=96, ffn=256, layers=2),
        deep=replace(base, layers=6, heads=2, kv_heads=1, knows_tokens=True),
    )


def flops_off():
    "Rows: decoder, arm, said over counted"
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from protein_llm.config import from_preset
    from protein_llm.training.plan import Records, batch_flops, total_flops

    sizes, extra = (
        (160, 37, 53),
        {torch.ops.aten.addmm_: lambda y, a, b, **_: 2 * a[0] * a[1] * b[1]},
    )
    for name, llm in decoders().items():
        for arch in ARMS:
            cfg = replace(from_preset("tiny", arch).model, cross_every=2, d_bridge=48)
            model = built(cfg, llm, meta=False)
            batch = batch_of(cfg, model, *sizes)
            counter = FlopCounterMode(display=False, custom_mapping=extra)
            with sdpa_kernel(SDPBackend.MATH), counter:
                model(batch)[0].backward()
            parts = batch_flops(cfg, llm, WIDTH, Records(*([n] for n in sizes)))
            parts["attention"] = tuple(2 * n for n in parts["attention"])
            yield f"{name}, {arch}", total_flops(parts) / counter.get_total_flops()


def parameters_off():
    "Rows: preset and arm, said over built"
    from protein_llm.config import from_preset
    from protein_llm.training.plan import llm_shape, parameter_counts

    for preset in ("tiny", "smollm2", "qwen3_4b", "qwen3_8b"):
        for arch in (*ARMS, "blind"):
            cfg = from_preset(preset, arch).model
            llm = llm_shape(cfg.llm)
            found = sum(p.numel() for p in built(cfg, llm, meta=True).parameters())
            yield f"{preset}, {arch}", sum(parameter_counts(cfg, llm, WIDTH).values()) / found


def kept(cfg, llm, layers):
    "Bytes of the storages that decoder layers keep, parameters aside"
    import torch

    dtype = getattr(torch, cfg.llm_dtype)
    model = built(replace(cfg, arch="text"), replace(llm, layers=layers), True, cfg.llm_dtype)
    weights, seen = {p.untyped_storage()._cdata for p in model.parameters()}, {}

    def pack(t):
        s = t.untyped_storage()
        if s._cdata not in weights:
            seen[s._cdata] = s  # held, so that no address is used twice
        return t

    x = torch.empty(1, BYTES_OF, llm.width, dtype=dtype, device="meta", requires_grad=True)
    turn = [torch.empty(1, BYTES_OF, llm.head_dim, dtype=dtype, device="meta") for _ in range(2)]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        for layer in model.llm.get_decoder().layers:
            x = layer(x, attention_mask=None, position_embeddings=tuple(turn))
    return sum(s.nbytes() for s in seen.values())


def activations_off():
    "Rows: sizes, said over kept"
    import torch
    from activations import flash

    from protein_llm.config import from_preset
    from protein_llm.training.plan import kept_once, kept_per_token, llm_shape

    real = torch.nn.functional.scaled_dot_product_attention
    torch.nn.functional.scaled_dot_product_attention = flash(torch)
    for preset in ("tiny", "smollm2", "qwen3_4b", "qwen3_8b"):
        for rank in (0, 8, 32):
            cfg = replace(from_preset(preset).model, lora_r=rank)
            llm = replace(llm_shape(cfg.llm), vocab=4_096)
            if not rank and llm.knows_tokens:
                continue  # nothing is trained
            found = kept(cfg, llm, 2) - kept(cfg, llm, 1)
            said = BYTES_OF * kept_per_token(cfg, llm, cfg.llm_dtype, packed=False)
            yield f"{preset}, LoRA {rank}", (said + kept_once(cfg, llm, cfg.llm_dtype)) / found
    torch.nn.functional.scaled_dot_product_attention = real


def seconds(arch, tokens, records, least):
    "Operations, CPU seconds: passes over equal records for at least so many seconds"
    import torch

    from protein_llm.config import from_preset
    from protein_llm.training.plan import LLMShape, Records, batch_flops, total_flops

    torch.set_num_threads(1)
    llm = LLMShape(384, 6, 6, 2, 64, 1_024, 4_096, tied=True, qk_norm=True)
    cfg = replace(from_preset("tiny", arch).model, cross_every=2)
    model = built(cfg, llm, meta=False)
    sizes = tokens, tokens // 3, 200
    batch = batch_of(cfg, model, *sizes, records)
    model(batch)[0].backward()  # the first pass also makes buffers
    done = total_flops(batch_flops(cfg, llm, WIDTH, Records(*([n] * records for n in sizes))))
    began, passes = time.process_time(), 0
    while time.process_time() - began < least:
        model(batch)[0].backward()
        passes += 1
    return passes * done, time.process_time() - began


def time_off(least):
    "Rows: arm and length, predicted over measured seconds"
    done, took = seconds("mlp", 220, 8, 10.0)
    speed = done / took
    for arch, tokens, records in (
        ("mlp", 440, 4),
        ("mlp", 160, 16),
        ("text", 520, 4),
        ("perceiver", 220, 8),
        ("flamingo", 220, 8),
    ):
        done, took = seconds(arch, tokens, records, least)
        yield f"{arch}, {records} x {tokens} tokens", done / speed / took


def h100_off():
    "Rows: side, what, plan over measured"
    from protein_llm.training.plan import against_h100

    for row in against_h100():
        again = ", checkpointing" if row["checkpointing"] else ""
        yield f"{row['side']}, {row['micro_batch']:,}{again}", row["speed"], row["memory"]


def worst(ratios):
    return max(abs(ratio - 1) for ratio in ratios)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="shorter timings")
    quick = parser.parse_args().quick
    figures, table = {}, []
    for name, rows in dict(
        parameters=parameters_off(),
        flops=flops_off(),
        activations=activations_off(),
        time=time_off(5.0 if quick else 20.0),
    ).items():
        found = dict(rows)
        figures[name] = worst(found.values())
        table += [(name, what, ratio) for what, ratio in found.items()]
    rows = list(h100_off())
    figures["h100_memory"] = worst(memory for _, _, memory in rows)
    figures["h100_speed"] = worst(speed for _, speed, _ in rows)
    one = [speed for what, speed, _ in rows if what.startswith("varlen")]
    figures["h100_one_kernel"] = worst(one)
    table += [("h100_memory", what, memory) for what, _, memory in rows]
    table += [("h100_speed", what, speed) for what, speed, _ in rows]
    print(f"{'comparison':12} {'of':55} plan / found")
    for name, what, ratio in table:
        print(f"{name:12} {what:55} {ratio:.4f}{'  off' if abs(ratio - 1) > 0.2 else ''}")
    ok = all(figures[name] <= bar for name, bar in BARS.items())
    figures = {name: float(f"{value:.4g}") for name, value in figures.items()}
    print(json.dumps(dict(bench="planner", figures=figures, bars=BARS, ok=ok)))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
