"""Batches of random records as tensors: our token store and `collate` against a Hugging Face `datasets` Dataset on
disk and the pad collator of `transformers`.

Records are the demo's, lengthened to the sizes of the published system as PERF has them: a bridge arm's about 190
tokens (a record's prompt and answer five times over), the text arm's about 520 (twice).
`python bench/fetch.py` compares on 25 copies of these (half a million records), `--quick` on two. A batch is 64
records, one a row: the share of a rank in the published run (512 records a step, 8 ranks); `*_16` is the same with 16
records, and `*_demo` the demo's records as they are (41 tokens with a bridge, 277 as text); neither has a bar. Files
are in the system's page cache, and both sides' were read through their maps once before anything is timed, as in any
epoch but the first: until then most of the time of a batch of ours is the system's, which maps pages.
Ours returns five int64 tensors, as training takes them; the peer `input_ids`, `attention_mask` and `labels`. Before
anything is timed, ids and labels are asserted to be identical in 20 batches for every way of reading the peer. Both
sides run in one process, in turns, on the same batches, and work on one thread; the minimum of five rounds counts, in
CPU seconds, because on a busy machine the wall clock of the longer side holds more of the others' work.

The bar is for what people use: a Dataset from disk, holding `input_ids` and `labels` (int32, written by
`from_generator`), read as DataLoader reads it (`__getitems__` of a list of indices), and `DataCollatorForSeq2Seq`,
which pads labels with -100 (`DataCollatorWithPadding` pads none). The Dataset's format (`plain`, `numpy`, `torch`)
and what the collator returns (`pt`, its default, or `np`, made tensors without a copy) are those that are fastest
together; `*_pt` is the ratio to the collator's default in its fastest format, without a bar. Most of the peer's time
is the collator's, which goes through Python lists token by token. Against a collator that somebody tunes by hand the
ratio is far smaller; two such are reported without a bar: `*_tuned`, one NumPy copy a record over the fastest of the
Dataset's formats, and `*_arrow`, the same over a raw Arrow table whose columns are sliced by hand. They write ids and
labels, two of our five tensors.

The ratio grows with the records: the peer's time goes with their tokens, while ours has some forty NumPy calls a
batch, whatever its size, of about a microsecond each. Records of the demo's 41 tokens stay far below the bar for that
reason, and batches of 16 do. The quick bars are those of the full run, as the ratio hardly depends on how many
records there are.
"""

import argparse
import fnmatch
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from peers import add_peers

BARS = dict(text=50.0, bridge=50.0)
QUICK_BARS = dict(text=50.0, bridge=50.0)
# an arm, and how often the text of a record is repeated
ARMS = dict(text=("text", 2), bridge=("mlp", 5))
COPIES, QUICK_COPIES = 25, 2
SIZES, CHECKED, ROUNDS, BATCHES = {"": 64, "_16": 16}, 20, 5, 30


def copy_store(store, out, copies, times):
    "A token store with every record `copies` times, each named; prompt and answer stand `times` in a row"
    import polars as pl

    from protein_llm.text.prompts import write_index

    out.mkdir(parents=True)
    start, places, answer, end = (
        store.cuts[:, :1],
        store.cuts[:, 1:-2],
        store.cuts[:, -2:-1],
        store.cuts[:, -1:],
    )
    lengths = times * np.hstack([answer - start, end - answer])  # prompt, answer [R, 2]
    ends = 1 + lengths.ravel().cumsum().reshape(-1, 2)
    begin = ends[:, :1] - lengths[:, :1]
    cuts = np.hstack([begin, places - start + begin, ends])
    ids = np.concatenate(
        [
            store.ids[:1],
            *(
                np.tile(store.ids[a:b], times)
                for s, *_, m, e in store.cuts.tolist()
                for a, b in ((s, m), (m, e))
            ),
        ]
    )
    n, names = len(ids) - 1, store.record_ids.to_pylist()
    np.concatenate([ids[:1], np.tile(ids[1:], copies)]).tofile(out / "ids.bin")
    write_index(
        out,
        (pl.Series([f"{r}.{c}" for r in names]) for c in range(copies)),
        pl.Series(store.protein_ids.to_pylist()),
        np.tile(store.proteins, (copies, 1)),
        np.concatenate([cuts + c * n for c in range(copies)]),
        dict(layout=store.manifest["layout"], llm=store.manifest["llm"]),
    )


def on_disk(store, folder):
    "The same records as a Dataset, written and opened as its manual says"
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features(
        {c: datasets.List(datasets.Value("int32")) for c in ("input_ids", "labels")}
    )

    def rows():
        for start, *_, answer, end in store.cuts.tolist():
            ids = store.ids[start:end]
            yield dict(input_ids=ids, labels=np.where(np.arange(start, end) < answer, -100, ids))

    datasets.Dataset.from_generator(
        rows, features=features, cache_dir=str(folder / "cache")
    ).save_to_disk(folder / "dataset")
    return datasets.load_from_disk(folder / "dataset")


def touch(store, data):
    "Have the system map every page of both sides' files"
    for array in (store.ids, store.cuts, store.proteins):
        array.max()
    for column in data.data.columns:
        for chunk in column.chunks:
            for buffer in chunk.buffers():
                if buffer is not None:
                    np.frombuffer(buffer, np.uint8).max()


# ------------------------------------------------- ways to a batch: a list of positions -> `input_ids` and `labels`


def tuned(rows, pad):
    "A pad collator by hand; NumPy buffers, because small torch calls cost more"
    import torch

    x = np.full((len(rows), max(len(r["input_ids"]) for r in rows)), pad)
    y = np.full_like(x, -100)
    for i, r in enumerate(rows):
        n = len(r["input_ids"])
        x[i, :n], y[i, :n] = r["input_ids"], r["labels"]
    return torch.from_numpy(x), torch.from_numpy(y)


def arrow_rows(table):
    "The rows of a raw table, cut out of its columns"
    columns = {n: table[n].combine_chunks() for n in table.column_names}
    cut = {n: np.split(c.values.to_numpy(), c.offsets.to_numpy()[1:-1]) for n, c in columns.items()}
    return [dict(zip(cut, r, strict=True)) for r in zip(*cut.values(), strict=True)]


def peers(data, tokenizer):
    "The library's collator (`bar_*`), and collators by hand"
    import torch
    from transformers import DataCollatorForSeq2Seq

    formats = dict(plain=data, numpy=data.with_format("numpy"), torch=data.with_format("torch"))
    found, pad, raw = {}, tokenizer.pad_token_id, data.with_format("arrow")
    for name, d in formats.items():
        for kind in ("pt", "np"):
            collator = DataCollatorForSeq2Seq(tokenizer, return_tensors=kind)

            def read(batch, d=d, collator=collator):
                b = collator(d.__getitems__(batch))
                return torch.as_tensor(b["input_ids"]), torch.as_tensor(b["labels"])

            found[f"bar_{name}_{kind}"] = read
        found[f"tuned_{name}"] = lambda batch, d=d: tuned(d.__getitems__(batch), pad)
    return found | dict(arrow=lambda batch: tuned(arrow_rows(raw[batch]), pad))


def ours(store):
    "Batches by `collate`"
    from protein_llm.text.packing import collate

    def read(batch):
        b = collate([[i] for i in batch], store, None)
        return b.input_ids, b.labels

    return dict(ours=read)


# ---------------------------------------------------------------- comparison


def times_of(ways, n, size):
    "CPU seconds a batch of each way, the minimum of the rounds; asserts first that all give the same tensors"
    import torch

    order = (
        np.random.default_rng(0)
        .permutation(n)[: (CHECKED + ROUNDS * BATCHES) * size]
        .reshape(-1, size)
        .tolist()
    )
    for batch in order[:CHECKED]:
        expected = ways["ours"](batch)
        for way, read in ways.items():
            for a, b in zip(expected, read(batch), strict=True):
                assert a.dtype == b.dtype == torch.int64 and torch.equal(a, b), (
                    f"{way} gives other tensors"
                )
    best = dict.fromkeys(ways, float("inf"))
    for k in range(CHECKED, len(order), BATCHES):
        for way, read in ways.items():
            start = time.process_time()
            for batch in order[k : k + BATCHES]:
                read(batch)
            best[way] = min(best[way], (time.process_time() - start) / BATCHES)
    return best


def compare(arch, times, folder, copies, sizes):
    "Ratios for records of one arm, by what is compared and the suffix of the batch's size"
    from protein_llm.config import from_preset
    from protein_llm.runs.data import RunData
    from protein_llm.text.prompts import TokenStore

    run = RunData(from_preset("tiny", arch=arch))
    copy_store(run.tokens, folder / "tokens", copies, times)
    store = TokenStore(folder / "tokens")
    data = on_disk(store, folder / "datasets")
    touch(store, data)
    ways, figures = ours(store) | peers(data, run.tokenizer), {}
    for suffix, size in sizes.items():
        best = times_of(ways, len(store), size)
        groups = dict(bar="bar_*", pt="bar_*_pt", tuned="tuned_*", arrow="arrow")
        fastest = {
            kind: min(fnmatch.filter(best, pattern), key=best.get)
            for kind, pattern in groups.items()
        }
        print(
            f"{arch}: {len(store):,} records of {store.manifest['tokens'] / len(store):.0f} tokens, "
            f"{size} a batch; CPU microseconds a batch: "
            + ", ".join(f"{w} {1e6 * s:,.0f}" for w, s in best.items()),
            flush=True,
        )
        figures |= {
            ("" if kind == "bar" else f"_{kind}") + suffix: best[w] / best["ours"]
            for kind, w in fastest.items()
        }
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer records")
    quick = parser.parse_args().quick
    add_peers()
    figures, bars = {}, QUICK_BARS if quick else BARS
    with tempfile.TemporaryDirectory() as d:
        os.environ |= dict(HF_DATASETS_OFFLINE="1", HF_HOME=d)
        import torch

        torch.set_num_threads(2)
        copies = QUICK_COPIES if quick else COPIES
        for name, (arch, repeats) in ARMS.items():
            figures |= {
                name + k: v
                for k, v in compare(arch, repeats, Path(d) / name, copies, SIZES).items()
            }
            figures |= {
                f"{name}_demo{k}": v
                for k, v in compare(
                    arch, 1, Path(d) / f"{name}-demo", QUICK_COPIES, {"": 64}
                ).items()
            }
    figures = {k: float(f"{v:.3g}") for k, v in figures.items()}
    ok = all(figures[k] >= bar for k, bar in bars.items())
    print(json.dumps(dict(bench="fetch", figures=figures, bars=bars, ok=ok)))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
