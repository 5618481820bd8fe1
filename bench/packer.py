"""Records packed into rows: our `pack_rows` against TRL's `pack_dataset(strategy="bfd")`, both best fit decreasing.

`python bench/packer.py` packs 200,000 records into rows of 4,096 tokens with both, and 4.89M records, the size of the
published training set, with ours alone; it is judged by PERF's bars.
`--quick` takes 20,000 and 500,000 and has the smaller bars below: ours does a few operations for each length that
occurs, whatever the number of records, so its lead grows with them.
Lengths have the mean of the published run, 235 tokens (`draw`, fixed seeds): a prompt of 75 to 105 tokens (template,
instruction, 32 protein tokens); 35 % of the answers are names (lognormal, mean 12, sigma 0.5), the others texts
(lognormal, mean 214, sigma 0.8); clipped to 2,048.

Before anything is timed: each record once and no row over capacity on both sides (in TRL's tokens each record's are
its number), and `more_rows`, ours less the fewest of TRL's settings.
TRL's dataset is on disk beforehand and holds one column, `input_ids` (int32); `load_from_cache_file=False`, as it
would else read its first result again. It packs each batch of `map` by itself:
1,000 records unless told otherwise. Its fastest way counts, of batches of 1,000, of 10,000 or all records, with
results in memory, and of 1,000 with results in a file (as without arguments: `default`).
Both sides run in this process, in turns; the minimum of three rounds of wall-clock counts. Two processes
(`num_proc=2`) are left out, see README.md.

TRL returns a dataset of packed tokens, ours positions of records, which is what a step reads from the token store.
Two ratios without a bar set that right. `speed_bins`: the assignment alone, TRL's loop over its `_SegmentTree`,
copied out of `_pack_bfd` (it has no function for it), with Python's integers, which it handles faster than NumPy's,
and on sorted lengths; ours is all of `pack_rows`, sorting included. `speed_tokens`: our rows and then the packed
tokens, made as TRL makes them, against all of TRL. `speed_cpu` is `speed` in CPU seconds.
`whole_seconds` and `whole_gb` (peak of a process of its own, torch and libraries included) are of ours on the large
set, the minimum of three rounds; training packs a step at a time, so that this is the time for a whole corpus at
once, not a cost of each run.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from peers import add_peers

BARS = dict(speed=20.0, fill=0.993, more_rows=0, whole_seconds=10.0)
QUICK_BARS = dict(speed=4.0, fill=0.993, more_rows=0, whole_seconds=2.5)
AT_MOST = ("more_rows", "whole_seconds")
RECORDS, WHOLE = 200_000, 4_890_000
QUICK_RECORDS, QUICK_WHOLE = 20_000, 500_000
CAPACITY, ROUNDS = 4_096, 3


def draw(n, seed=0):
    "Token lengths of `n` records: prompts and answers as the head of this file states them"
    rng = np.random.default_rng(seed)

    def lognormal(mean, sigma):
        return rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, n)

    answers = np.where(rng.random(n) < 0.35, lognormal(12, 0.5), lognormal(214, 0.8))
    return np.minimum(rng.integers(75, 106, n) + np.ceil(answers), 2_048).astype(np.int64)


def gigabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**30 if sys.platform == "darwin" else 2**20
    )


def check(rows, lengths):
    "Each position once, no row over capacity"
    order, sizes = np.concatenate(rows), np.array([len(r) for r in rows])
    assert np.array_equal(np.sort(order), np.arange(len(lengths))), (
        "a record is lost or comes twice"
    )
    assert np.add.reduceat(lengths[order], sizes.cumsum() - sizes).max() <= CAPACITY, (
        "a row is over capacity"
    )


def whole(n):
    "Ours on all records (called in a process of its own)"
    from protein_llm.text.packing import pack_rows

    lengths, seconds = draw(n, 1), []
    before = gigabytes()
    for _ in range(ROUNDS):
        start = time.perf_counter()
        rows = pack_rows(lengths, CAPACITY)
        seconds.append(time.perf_counter() - start)
    peak = gigabytes()
    check(rows, lengths)
    print(
        json.dumps(
            dict(
                whole_seconds=min(seconds),
                whole_gb=peak,
                before_gb=before,
                whole_fill=lengths.sum() / CAPACITY / len(rows),
            )
        )
    )


# ---------------------------------------------------------------- the two sides, as functions without arguments


def on_disk(lengths, folder):
    "A dataset whose tokens are the number of their record, written and opened as its manual says"
    import datasets
    import pyarrow as pa

    datasets.disable_progress_bars()
    ids = np.arange(len(lengths), dtype=np.int32).repeat(lengths)
    column = pa.ListArray.from_arrays(np.r_[0, lengths.cumsum()].astype(np.int32), ids)
    datasets.Dataset(pa.table(dict(input_ids=column))).save_to_disk(folder / "dataset")
    return datasets.load_from_disk(folder / "dataset")


def trl_bins(lengths, capacity):
    "The loop of TRL 1.16.0's `_pack_bfd`, for what it costs without tables"
    from collections import defaultdict, deque

    from trl.data_utils import _SegmentTree

    order = np.argsort(-lengths, kind="stable")
    tree, space_to_bin, bins = _SegmentTree(capacity), defaultdict(deque), []
    tree.add(capacity)
    for length, i in zip(lengths[order].tolist(), order.tolist(), strict=True):
        space = tree.search(length)
        if space < capacity:
            row = space_to_bin[space].popleft()
        else:
            bins.append(row := dict(ids=[], length=0))
        row["ids"].append(i)
        row["length"] += length
        if space < capacity and not space_to_bin[space]:
            tree.remove(space)
        space -= length
        space_to_bin[space].append(row)
        if space > 0:
            tree.add(space)
    return [row["ids"] for row in bins]


def our_tokens(data, lengths):
    "Our rows, and their tokens as TRL makes them"
    import pyarrow as pa
    import pyarrow.compute as pc

    from protein_llm.text.packing import pack_rows

    rows = pack_rows(lengths, CAPACITY)
    order, last = np.concatenate(rows), np.cumsum([len(r) for r in rows]) - 1
    ids = pc.take(data.data.table["input_ids"].combine_chunks(), pa.array(order)).values
    return pa.ListArray.from_arrays(np.r_[0, lengths[order].cumsum()[last]].astype(np.int32), ids)


def sides(data, lengths):
    "What is timed: ours, and every way of TRL's"
    from trl import pack_dataset

    from protein_llm.text.packing import pack_rows

    n = len(lengths)
    ways = dict(
        default=(1_000, False),
        batches_1k=(1_000, True),
        batches_10k=(10_000, True),
        batch_all=(n, True),
    )

    def packed(batch, memory):
        return pack_dataset(
            data,
            CAPACITY,
            "bfd",
            map_kwargs=dict(batch_size=batch, keep_in_memory=memory, load_from_cache_file=False),
        )

    return dict(
        ours=lambda: pack_rows(lengths, CAPACITY),
        tokens=lambda: our_tokens(data, lengths),
        bins=lambda: trl_bins(lengths, CAPACITY),
    ) | {way: lambda args=args: packed(*args) for way, args in ways.items()}


def check_sides(found, lengths):
    "Rows of each side; asserts first that all hold each record once and none too much"
    check(found["ours"], lengths)
    check(found["bins"], lengths)
    rows = {side: len(r) for side, r in found.items()}
    for way in set(found) - {"ours", "tokens", "bins"}:
        data = found[way].with_format("arrow")[:]
        sizes, ids = data["seq_lengths"].combine_chunks(), data["input_ids"].combine_chunks()
        ends = sizes.flatten().to_numpy().cumsum()
        names = ids.flatten().to_numpy()[ends - 1]
        assert np.array_equal(np.sort(names), np.arange(len(lengths))) and np.array_equal(
            np.diff(ends, prepend=0), lengths[names]
        ), f"TRL {way}: a record is lost or cut"
        assert ids.value_lengths().to_numpy().max() <= CAPACITY, (
            f"TRL {way}: a row is over capacity"
        )
    ours = np.concatenate(found["ours"])
    assert np.array_equal(found["tokens"].flatten().to_numpy(), ours.repeat(lengths[ours])), (
        "our tokens are not those of our rows"
    )
    return rows


def compare(n, folder):
    "Figures of both sides on `n` records"
    lengths = draw(n)
    timed = sides(on_disk(lengths, folder), lengths)
    rows = check_sides({side: f() for side, f in timed.items()}, lengths)
    best = {side: [float("inf")] * 2 for side in timed}
    for _ in range(ROUNDS):
        for side, f in timed.items():
            wall, cpu = time.perf_counter(), time.process_time()
            f()
            best[side] = [
                min(a, b)
                for a, b in zip(
                    best[side], (time.perf_counter() - wall, time.process_time() - cpu), strict=True
                )
            ]
    print(
        f"{n:,} records of {lengths.mean():.0f} tokens, {len(np.unique(lengths)):,} lengths: "
        + "; ".join(f"{s} {w:.3f} s, CPU {c:.3f} s, {rows[s]:,} rows" for s, (w, c) in best.items())
    )
    ways = [s for s in timed if s not in ("ours", "tokens", "bins")]
    fastest, ours = min(best[s][0] for s in ways), best["ours"][0]
    return dict(
        speed=fastest / ours,
        speed_bins=best["bins"][0] / ours,
        speed_tokens=fastest / best["tokens"][0],
        speed_cpu=min(best[s][1] for s in ways) / best["ours"][1],
        fill=lengths.sum() / CAPACITY / rows["ours"],
        fill_default=lengths.sum() / CAPACITY / rows["default"],
        more_rows=rows["ours"] - min(rows[s] for s in ways),
        ours_ms=1000 * ours,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer records, smaller bars")
    parser.add_argument(
        "--whole",
        type=int,
        help="pack so many records with ours alone, and print seconds and peak memory",
    )
    args = parser.parse_args()
    if args.whole:
        return whole(args.whole)
    n, n_whole, bars = (
        (QUICK_RECORDS, QUICK_WHOLE, QUICK_BARS) if args.quick else (RECORDS, WHOLE, BARS)
    )
    add_peers()
    # first, while this process is small: a child starts with its parent's peak
    alone = subprocess.run(
        [sys.executable, __file__, "--whole", str(n_whole)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    figures = json.loads(alone.stdout.splitlines()[-1])
    print(
        f"{n_whole:,} records: {figures['whole_seconds']:.2f} s, peak {figures['whole_gb']:.2f} GB, "
        f"{figures.pop('before_gb'):.2f} GB of it before packing"
    )
    with tempfile.TemporaryDirectory() as d:
        os.environ |= dict(HF_DATASETS_OFFLINE="1", HF_HOME=d)
        figures |= compare(n, Path(d))
    ok = all(figures[k] <= bar if k in AT_MOST else figures[k] >= bar for k, bar in bars.items())
    figures = {k: float(f"{v:.4g}" if "fill" in k else f"{v:.3g}") for k, v in figures.items()}
    print(json.dumps(dict(bench="packer", figures=figures, bars=bars, ok=ok)))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
