"""Packed LoRA training steps of ours at bridge mode's lengths, against Hugging Face Trainer and TRL's SFTTrainer,
each padded and with its own remedy for padding.

`python bench/train_step.py` takes 3 optimizer steps of 48 records (about 185 tokens each, a third of them answers)
with a random Qwen3-shaped model of V=8,192 and is judged by PERF's bars; `--quick` is one comparison of 2 steps of 16
records with few settings. All sides get the same records, the same frozen weights and the same LoRA (rank 8, PEFT),
AdamW, clipping, and a loss over answers only; before anything is timed, each setting of each side has to give the
same mean loss to 1e-3. What a bridge adds costs the same on every side, so that plain ids stand where protein tokens
would. Peers get their fastest setting for this machine among 1, 2, 4 and 8 records a micro-batch, or 1,024 to 4,096
tokens a packed row (with gradient accumulation up to the same optimizer step); `hf_8`, `hf_grouped_8` and `trl_8` are
the same at 8 records, where padding costs more, and have no bar.
Wall clock of each step, the fastest of three rounds, sides in turns; `_cpu` in CPU seconds. `floor` is our time over
that of the bare matrix products of the frozen layers and the head at answers, taken in every round: what any step
must do.

The bars are not reached: on a CPU a micro-batch of one record has no padding and loses little, so that the peers'
best takes 1.4 to 3.4 times our time, while ours is 2.1 times the bare products at bridge mode's lengths and 2.7 times
at text mode's; bench/README.md says how far that leaves the bars. Margins are CPU-specific: on a GPU one record a
micro-batch leaves most of the device idle, and the peers must pad.
`--gpu` is the same comparison on a CUDA device at Qwen3-0.6B's sizes (V=151,936): frozen weights in bfloat16, LoRA in
float32, bfloat16 autocast on every side, larger steps, micro-batches and rows. Nobody has run it on a GPU yet.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from peers import add_peers

BARS = dict(hf=3.0, hf_grouped=2.5, trl=5.0, trl_packed=7.0)
# 15 % below what a quick run gave on a quiet machine: a guard against getting slower; BARS are the targets
QUICK_BARS = dict(hf=1.4, hf_grouped=1.4, trl=1.7, trl_packed=3.2)
DEVICE, DTYPE = "cpu", "float32"
SHAPE = dict(
    vocab_size=8_192,
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=2,
    head_dim=32,
    tie_word_embeddings=True,
)
ROUNDS, STEPS, QUICK_STEPS = 3, 3, 2
# Records of an optimizer step: bridge mode's lengths, text mode's
RECORDS, QUICK_RECORDS = ((48, 16), (16, 8))
# What is tried: records of a micro-batch, where it is padded
ROWS, QUICK_ROWS = ((1, 2, 4, 8), (1, 8))
PACKS, QUICK_PACKS = (1_024, 2_048, 4_096), (2_048,)  # Tokens of a packed row
GPU = dict(
    DEVICE="cuda",
    DTYPE="bfloat16",
    SHAPE=dict(
        vocab_size=151_936,
        hidden_size=1_024,
        intermediate_size=3_072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    ),
    RECORDS=(256, 96),
    ROWS=(4, 8, 16, 32),
    PACKS=(4_096, 8_192, 16_384),
)  # What `--gpu` puts in the place of these
SPECIAL = ("<pad>", "<eos>", "<|protein_start|>", "<|protein|>", "<|protein_end|>")


def make_records(n, text, vocab=None, seed=0):
    "Ids of each record and how many of them are prompt"
    rng, vocab = np.random.default_rng(seed), vocab or SHAPE["vocab_size"]
    prompt, answer = (
        rng.integers(90, 151, n),
        rng.lognormal(np.log(42), 1.0, n).astype(int).clip(4, 800),
    )
    if text:
        prompt += rng.lognormal(np.log(320), 0.6, n).astype(int).clip(50, 1_000) - 32
    return [
        (rng.integers(len(SPECIAL), vocab, p + a).tolist(), int(p))
        for p, a in zip(prompt, answer, strict=True)
    ]


def make_tokenizer():
    "One that knows the special tokens; nothing is tokenised here"
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(
        models.WordLevel(
            {
                w: i
                for i, w in enumerate(
                    (*SPECIAL, *map(str, range(SHAPE["vocab_size"] - len(SPECIAL))))
                )
            },
            unk_token="<pad>",
        )
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", padding_side="right"
    )


STILL = 1e-12  # a learning rate that changes no weight


def fresh_model(attention, vocab=None):
    "The same frozen weights at every call, and LoRA's, with PEFT's own computation"
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from protein_llm.model.llm import LORA_TARGETS

    torch.manual_seed(0)
    llm = Qwen3ForCausalLM._from_config(
        Qwen3Config(
            **SHAPE | dict(vocab_size=vocab or SHAPE["vocab_size"]), pad_token_id=0, eos_token_id=1
        ),
        attn_implementation=attention,
        dtype=getattr(torch, DTYPE),
    )
    llm = get_peft_model(
        llm,
        LoraConfig(
            r=8,
            lora_alpha=16,
            lora_dropout=0.0,
            target_modules=list(LORA_TARGETS),
            task_type="CAUSAL_LM",
        ),
    )
    for p in llm.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.02)  # PEFT starts with zeros in B
    return llm.to(DEVICE)


def clock():
    "Seconds, of the wall's clock and of CPUs, once the device has done what it was told"
    if DEVICE == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


# ---------------------------------------------------------------- sides: (records, setting, optimizer steps,
# learning rate) -> mean loss; seconds of each step, wall and CPU [steps, 2]


def ours(records, tokens, steps, lr, folder):
    "`train_step` over a token store"
    import polars as pl

    from protein_llm.config import ModelConfig, RunConfig, TrainConfig
    from protein_llm.model import build_model
    from protein_llm.model.parts import trainable_parts
    from protein_llm.runs.run import Run
    from protein_llm.text.packing import step_records
    from protein_llm.text.prompts import TokenStore, write_index
    from protein_llm.training.parallel import make_accelerator
    from protein_llm.training.step import make_optimizer, train_step

    folder /= f"ours{len(records)}"
    if not folder.exists():
        folder.mkdir()
        lengths, prompts = (
            np.array([len(ids) for ids, _ in records]),
            np.array([p for _, p in records]),
        )
        end = 1 + lengths.cumsum()
        np.array([0, *(i for ids, _ in records for i in ids)], np.int32).tofile(folder / "ids.bin")
        write_index(
            folder,
            [pl.Series(map(str, range(len(records))))],
            pl.Series(["P"]),
            np.zeros((len(records), 1)),
            np.stack([end - lengths, end - lengths + prompts, end], 1),
            {},
        )
    cfg = RunConfig(
        model=ModelConfig(arch="text"),
        train=TrainConfig(
            steps=steps + 1,
            warmup=1,
            batch_records=len(records) // steps,
            batch_tokens=tokens,
            max_tokens=2_048,
            lr=lr,
            precision=DTYPE,
        ),
    )
    llm = fresh_model("records")
    lora = {n: p for n, p in llm.named_parameters() if p.requires_grad}
    base = llm.unload()
    base.config.protein_tokens_trained = (
        True  # no rows of their own: the same parameters as the peers'
    )
    model = build_model(cfg.model, 0, make_tokenizer(), DEVICE, llm=base).train()
    model.set_trained_state(
        {n: lora[n.removeprefix("llm.")] for ps in trainable_parts(model).values() for n, _ in ps},
        "here",
    )
    data, opt, acc, losses, times = (
        SimpleNamespace(tokens=TokenStore(folder), reads_features=False),
        make_optimizer(model, cfg.train),
        make_accelerator(Run(cfg)),
        [],
        [clock()],
    )
    for k in range(steps):
        losses.append(
            train_step(
                model, opt, k, step_records(len(records), k, cfg.train), data, cfg.train, acc
            )["loss"]
        )
        times.append(clock())
    return np.mean(losses), np.diff(times, axis=0)


def peer(kind, records, setting, steps, lr, folder):
    "A trainer's own loop over one epoch"
    import datasets
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

    times = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_, **kw):
            times.append(clock())

        def on_step_end(self, *_, **kw):
            times.append(clock())

    common = dict(
        output_dir=str(folder),
        num_train_epochs=1,
        learning_rate=lr,
        lr_scheduler_type="cosine",
        weight_decay=0.01,
        max_grad_norm=1.0,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        use_cpu=DEVICE == "cpu",
        bf16=DTYPE == "bfloat16",
        seed=0,
    )
    tokenizer, model = make_tokenizer(), fresh_model("sdpa")
    rows = dict(
        per_device_train_batch_size=setting,
        gradient_accumulation_steps=len(records) // steps // setting,
    )
    if kind.startswith("hf"):
        data = [
            dict(input_ids=ids, attention_mask=[1] * len(ids), labels=[-100] * p + ids[p:])
            for ids, p in records
        ]
        trainer = Trainer(
            model,
            TrainingArguments(**common, **rows, group_by_length=kind == "hf_grouped"),
            DataCollatorForSeq2Seq(tokenizer),
            data,
            processing_class=tokenizer,
            callbacks=[Clock],
        )
    else:
        from trl import SFTConfig, SFTTrainer

        data = datasets.Dataset.from_list(
            [
                dict(input_ids=ids, completion_mask=[0] * p + [1] * (len(ids) - p))
                for ids, p in records
            ]
        )
        sft = dict(gradient_checkpointing=False, completion_only_loss=True)
        if kind == "trl":
            config = SFTConfig(**common, **rows, **sft, max_length=2_048)
        else:
            from trl import pack_dataset

            n = len(pack_dataset(data, setting))
            config = SFTConfig(
                **common,
                **sft,
                per_device_train_batch_size=1,
                gradient_accumulation_steps=-(-n // steps),
                max_length=setting,
                packing=True,
                packing_strategy="bfd",
            )
        trainer = SFTTrainer(
            model, config, train_dataset=data, processing_class=tokenizer, callbacks=[Clock]
        )
    loss = trainer.train().training_loss
    assert len(times) == steps + 1, f"{kind} took {len(times) - 1} steps of {steps}"
    return loss, np.diff(times, axis=0)


def run(side, records, setting, steps, lr, folder):
    "One side, by the name of its kind"
    return (
        ours(records, setting, steps, lr, folder)
        if side == "ours"
        else peer(side, records, setting, steps, lr, folder)
    )


def choose(records, tried, folder):
    "Each side's fastest setting; asserts that all of them give one mean loss for the same records and weights"
    losses, seconds = {}, {}
    for side, settings in tried.items():
        for s in settings:
            losses[side, s], spent = run(side, records, s, 1, STILL, folder)
            seconds.setdefault(side, {})[s] = spent[0, 0]
        print(
            f"{side}: seconds by setting "
            + ", ".join(f"{s}: {t:.2f}" for s, t in seconds[side].items()),
            flush=True,
        )
    expected = losses[next(iter(losses))]
    error = max(abs(loss - expected) for loss in losses.values()) / expected
    assert error <= 1e-3, f"mean losses differ: {losses}"
    print(
        f"mean losses of {len(losses)} settings within {error:.1e} of {expected:.4f}, relative",
        flush=True,
    )
    return {side: min(found, key=found.get) for side, found in seconds.items()}, error


def floor(records, rows, vocab=None):
    "Seconds, wall and CPU, of the matrix products that a step needs: frozen layers both ways, head at answers"
    import torch

    vocab = vocab or SHAPE["vocab_size"]
    d, ffn, head = (SHAPE[k] for k in ("hidden_size", "intermediate_size", "head_dim"))
    q, kv = SHAPE["num_attention_heads"] * head, SHAPE["num_key_value_heads"] * head
    tokens, answers = sum(len(ids) for ids, _ in records), sum(len(ids) - p for ids, p in records)

    def seconds(n, d_out, d_in):
        x, g, w = (
            torch.randn(shape, device=DEVICE, dtype=getattr(torch, DTYPE))
            for shape in ((n, d_in), (n, d_out), (d_out, d_in))
        )

        def once():
            began = clock()
            x @ w.T
            g @ w
            return np.subtract(clock(), began)

        return np.min([once() for _ in range(10)], axis=0) / n

    body = sum(
        seconds(rows, *shape)
        for shape in ((q, d), (kv, d), (kv, d), (d, q), (ffn, d), (ffn, d), (d, ffn))
    )
    # of the vocabulary: writing the logits of all of it takes longer than the products
    block = min(vocab, 2_048)
    return (
        SHAPE["num_hidden_layers"] * body * tokens
        + seconds(rows * answers // tokens, block, d) * answers * vocab / block
    )


def compare(text, quick, folder):
    "Ratios of time"
    a_step, steps = (QUICK_RECORDS if quick else RECORDS)[text], QUICK_STEPS if quick else STEPS
    records = make_records(a_step * steps, text)
    lengths = np.array([len(ids) for ids, _ in records])
    tokens, answers = int(lengths.sum()), int(sum(len(ids) - p for ids, p in records))
    print(
        f"{steps} steps of {a_step} records; {tokens / len(records):.0f} tokens a record, "
        f"longest {lengths.max()}, {answers / tokens:.0%} answers",
        flush=True,
    )
    rows, packs = (QUICK_ROWS, QUICK_PACKS) if quick else (ROWS, PACKS)
    packs = [t for t in packs if t >= lengths.max()]
    best, error = choose(
        records[:a_step],
        dict(ours=packs, hf=rows, hf_grouped=rows, trl=rows, trl_packed=packs),
        folder,
    )
    sides = {side: (side, s) for side, s in best.items()} | {
        f"{side}_8": (side, 8) for side in ("hf", "hf_grouped", "trl") if best[side] != 8
    }
    times, bare = {side: [] for side in sides}, []
    for _ in range(ROUNDS):
        for side, (kind, s) in sides.items():
            times[side].append(run(kind, records, s, steps, 1e-4, folder)[1])
        bare.append(floor(records, best["ours"]))
    # of each step the fastest of the rounds
    wall, cpu = (
        {side: float(np.min(t, axis=0)[:, k].sum()) for side, t in times.items()} for k in (0, 1)
    )
    print(
        "microseconds a useful token, and of CPUs: "
        + ", ".join(
            f"{side} {1e6 * wall[side] / tokens:.0f} {1e6 * cpu[side] / tokens:.0f} (setting {s})"
            for side, (_, s) in sides.items()
        ),
        flush=True,
    )
    bare = np.min(bare, axis=0)
    for d in (wall, cpu):
        d.update({f"{side}_8": d[side] for side in ("hf", "hf_grouped", "trl") if best[side] == 8})
    figures = {side: t / wall["ours"] for side, t in wall.items()} | {
        f"{side}_cpu": cpu[side] / cpu["ours"] for side in best
    }
    return {k: v for k, v in figures.items() if k not in ("ours", "ours_cpu")} | dict(
        floor=wall["ours"] / bare[0],
        floor_cpu=cpu["ours"] / bare[1],
        loss_error=error,
        tokens_per_s=tokens / wall["ours"],
    )


def profile(text, quick, folder):
    "Print which operations our steps spend their time in: shares of the calling thread's own time, the largest first"
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    steps = QUICK_STEPS if quick else STEPS
    records = make_records((QUICK_RECORDS if quick else RECORDS)[text] * steps, text)
    ours(records, PACKS[1], steps, 1e-4, folder)  # warm
    with watch(activities=[ProfilerActivity.CPU]) as seen:
        ours(records, PACKS[1], steps, 1e-4, folder)
    table = sorted(seen.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in table)
    for e in table[:16]:
        print(f"{e.self_cpu_time_total / total:6.1%} {e.count:7,} {e.key}")


def main(name="train_step", text=False, bars=BARS, quick_bars=QUICK_BARS):
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer records")
    parser.add_argument(
        "--profile", action="store_true", help="print what our own time goes to and stop"
    )
    parser.add_argument(
        "--gpu", action="store_true", help="on a CUDA device, at Qwen3-0.6B's sizes in bfloat16"
    )
    args = parser.parse_args()
    quick = args.quick
    if args.gpu:
        globals().update(GPU)
    add_peers()
    bars = quick_bars if quick else bars
    with tempfile.TemporaryDirectory() as d:
        os.environ |= dict(
            HF_DATASETS_OFFLINE="1", HF_HUB_OFFLINE="1", HF_HOME=d, TOKENIZERS_PARALLELISM="false"
        ) | ({} if args.gpu else dict(CUDA_VISIBLE_DEVICES=""))
        import datasets
        import torch

        if args.gpu and not torch.cuda.is_available():
            sys.exit("--gpu: torch finds no CUDA device")
        torch.set_num_threads(2)
        datasets.disable_progress_bars()
        if args.profile:
            return profile(text, quick, Path(d))
        figures = compare(text, quick, Path(d))
    figures = {k: float(f"{v:.3g}") for k, v in figures.items()}
    ok = all(figures[k] >= bar for k, bar in bars.items())
    print(json.dumps(dict(bench=name, figures=figures, bars=bars, ok=ok)))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
