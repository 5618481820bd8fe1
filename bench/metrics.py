"""Text scores of an evaluation: ROUGE-L against rouge-score, intervals against scoring drawn records again, and a
whole evaluation of 100,000 answers.

`python bench/metrics.py` is judged by PERF's bars; `--quick` is the same with fewer pairs and draws, and the smaller
bars below.
Texts are real answers of the demo, strung together to 5 to 75 words (mean 40). A prediction is the reference itself
(5 %), the reference with a third of its runs of three words replaced by those of another record (45 %), another
record's text (45 %) or empty (5 %). Fixed seed.

`rouge_l`: `protein_llm.scoring.metrics.rouge_l` against `RougeScorer(["rougeL"]).score` pair by pair, 20,000 pairs,
without stemming. Asserted first: each pair agrees to 1e-9.
`bootstrap`: 1,000 draws of whole clusters (2.5 records each). The peer draws the same clusters, lists their texts and
scores these anew: corpus BLEU by sacrebleu and ROUGE-L by our own `rouge_l`, which is the harder peer. Ours scores
each record once and draws sums: `bleu_statistics`, `rouge_l` and both calls of `bootstrap` are in its time. Asserted:
both scores of every draw that is scored anew agree to 1e-9, and so does the interval over these draws. The full run
scores all 1,000 draws anew, the quick one 40, and multiplies their time by 25.
`whole_seconds` and `whole_gb` (wall clock and peak of a process of its own, reading the pairs, libraries and
dictionary included in the memory, dictionary and imports of our modules in the time): 100,000 pairs of 20,000
proteins in 8,000 clusters through `text_scores`, `known_entities`, `Information` (from as many references),
`entity_statistics` and `score_table` with 18 scores in all and in five bins of identity, 1,000 draws each. It uses
one process; `whole_cpu` are its CPU seconds, without a bar.

Both sides of a ratio run in this process, in turns; the minimum of three rounds of CPU time counts (for `bootstrap`,
one round of the peer).
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np

BARS = dict(rouge_l=25.0, bootstrap=100.0, whole_seconds=180.0, whole_gb=2.0)
QUICK_BARS = dict(rouge_l=20.0, bootstrap=80.0, whole_seconds=60.0, whole_gb=1.5)
AT_MOST = ("whole_seconds", "whole_gb")
PAIRS, QUICK_PAIRS = 20_000, 2_000
RECORDS, QUICK_RECORDS, AGAIN, QUICK_AGAIN, DRAWS = 1_000, 500, 1_000, 40, 1_000
WHOLE, QUICK_WHOLE = 100_000, 10_000
ROUNDS = 3


def answers():
    "Real answers of the demo"
    from protein_llm.data.manifest import fetch

    folder = fetch("demo") / "mol_instructions"
    return [
        r["output"]
        for name in ("general_function", "protein_function", "domain_motif", "catalytic_activity")
        for r in json.loads((folder / f"{name}.json").read_text())
    ]


def draw(n, seed=0):
    "Predictions and references as the head of this file states them"
    rng, pool = np.random.default_rng(seed), answers()

    def text():
        words, length = [], int(rng.integers(5, 76))
        while len(words) < length:
            words += pool[rng.integers(len(pool))].split()
        return " ".join(words[:length])

    def mixed(a, b):
        a, b = ([w[i : i + 3] for i in range(0, len(w), 3)] for w in (a.split(), b.split()))
        return " ".join(
            w for c in a for w in (b[int(rng.integers(len(b)))] if rng.random() < 1 / 3 else c)
        )

    references = [text() for _ in range(n)]
    kinds, other = rng.choice(4, n, p=[0.05, 0.45, 0.45, 0.05]), rng.permutation(n)
    return [
        (t, mixed(t, references[o]), references[o], "")[k]
        for t, k, o in zip(references, kinds, other, strict=True)
    ], references


def gigabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**30 if sys.platform == "darwin" else 2**20
    )


def cpu(f, rounds=ROUNDS):
    "Least CPU seconds of so many calls"
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        f()
        best = min(best, time.process_time() - start)
    return best


def compare_rouge(n):
    "Ratio of ROUGE-L; asserts that both agree"
    from rouge_score.rouge_scorer import RougeScorer

    from protein_llm.scoring.metrics import rouge_l

    (p, r), scorer = draw(n), RougeScorer(["rougeL"])

    def peer():
        return [scorer.score(y, x)["rougeL"].fmeasure for x, y in zip(p, r, strict=True)]

    error = np.abs(np.array(peer()) - rouge_l(p, r)).max()
    assert error <= 1e-9, f"ROUGE-L differs by {error:.1e}"
    theirs, ours = np.min(
        [(cpu(peer, 1), cpu(lambda: rouge_l(p, r), 1)) for _ in range(ROUNDS)], axis=0
    )
    print(
        f"ROUGE-L of {n:,} pairs: rouge-score {theirs:.2f} s, ours {ours:.3f} s, within {error:.1e}"
    )
    return dict(rouge_l=theirs / ours)


def compare_bootstrap(n, again):
    "Ratio of intervals; asserts that both agree on every draw that is scored anew"
    from protein_llm.scoring.metrics import bleu, bleu_from_statistics, bleu_statistics, rouge_l
    from protein_llm.scoring.table import bootstrap, ratio

    (p, r), clusters = draw(n, 1), np.arange(n) * 2 // 5
    names = clusters.max() + 1
    members = [np.flatnonzero(clusters == c) for c in range(names)]

    def ours(draws=DRAWS):
        sums = bleu_statistics(p, r), np.stack([rouge_l(p, r), np.ones(n)], 1)
        return sums, [
            bootstrap(s, clusters, f, draws)
            for s, f in zip(sums, (bleu_from_statistics, ratio), strict=True)
        ]

    # those of `bootstrap`
    weights = np.random.default_rng(0).multinomial(names, np.full(names, 1 / names), size=again)

    def peer():
        out = []
        for w in weights:
            drawn = np.concatenate([members[c] for c in range(names) for _ in range(w[c])])
            x, y = [p[i] for i in drawn], [r[i] for i in drawn]
            out.append((bleu(x, y)[0], rouge_l(x, y).mean()))
        return np.array(out)

    start = time.process_time()
    scores = peer()
    theirs = (time.process_time() - start) * DRAWS / again
    (bleu_sums, rouge_sums), intervals = ours(again)

    def total(s):
        return weights @ np.stack([np.bincount(clusters, c) for c in s.T], 1)

    error = np.abs(
        scores - np.stack([bleu_from_statistics(total(bleu_sums)), ratio(total(rouge_sums))], 1)
    ).max()
    error = max(
        error,
        np.abs(np.percentile(scores, [2.5, 97.5], axis=0).T - [i[1:] for i in intervals]).max(),
    )
    assert error <= 1e-9, f"drawn sums and drawn records differ by {error:.1e}"
    seconds = cpu(ours)
    print(
        f"{DRAWS:,} draws of {names:,} clusters, {n:,} records: scored anew {theirs:.1f} s "
        f"({again:,} draws timed), ours {seconds:.3f} s, within {error:.1e}"
    )
    return dict(bootstrap=theirs / seconds)


def whole(n):
    "A whole evaluation (called in a process of its own)"
    p, r = draw(n, 2)
    rng = np.random.default_rng(3)
    proteins, bins = (
        rng.integers(n // 5, size=n),
        rng.choice(["0-20", "20-30", "30-40", "40-60", "60-100"], n),
    )
    clusters = proteins * 2 // 5
    before, start, cpu_start = gigabytes(), time.perf_counter(), time.process_time()
    took = {}

    def lap(name):
        nonlocal start
        took[name], start = time.perf_counter() - start, time.perf_counter()

    import pandas as pd

    from protein_llm.scoring.entities import (
        EntityDictionary,
        Information,
        entity_statistics,
        known_entities,
    )
    from protein_llm.scoring.metrics import text_scores
    from protein_llm.scoring.table import METRICS, metrics_of, score_table

    dictionary = EntityDictionary()
    lap("dictionary")
    table = text_scores(p, r)
    lap("text")
    known = known_entities(r, proteins, dictionary)
    lap("known")
    information = Information(r, proteins, dictionary)
    lap("information")
    facts = [known[i] for i in proteins]
    table = table.join(entity_statistics(p, r, dictionary, facts, information))
    lap("entities")
    # what is chosen by likelihood, and what is less the mean of others, have columns that are made elsewhere
    has = {*table, "records"}
    scores = [m for m in metrics_of("answers") if has.issuperset(METRICS[m].columns)]
    groups = pd.DataFrame(dict(bin=bins))
    out = score_table("system", table, clusters, tuple(scores), groups, DRAWS)
    lap("intervals")
    assert (
        len(out) == 6 * len(scores)
        and np.isfinite(out[["value", "low", "high"]]).all(axis=None)
        and (out.low <= out.high).all()
    )
    print(out[out.group == "all"].drop(columns="group").round(4).to_string(index=False))
    print(
        json.dumps(
            dict(
                whole_seconds=sum(took.values()),
                whole_cpu=time.process_time() - cpu_start,
                whole_gb=gigabytes(),
                before_gb=before,
                took=took,
            )
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer pairs and draws, smaller bars")
    parser.add_argument(
        "--whole", type=int, help="evaluate so many pairs, and print seconds and peak memory"
    )
    args = parser.parse_args()
    if args.whole:
        return whole(args.whole)
    pairs, records, again, n, bars = (
        (QUICK_PAIRS, QUICK_RECORDS, QUICK_AGAIN, QUICK_WHOLE, QUICK_BARS)
        if args.quick
        else (PAIRS, RECORDS, AGAIN, WHOLE, BARS)
    )
    alone = subprocess.run(
        [sys.executable, __file__, "--whole", str(n)], check=True, stdout=subprocess.PIPE, text=True
    ).stdout  # first, while this process is small: a child starts with its parent's peak
    *shown, last = alone.splitlines()
    figures = json.loads(last)
    print("\n".join(shown))
    took = ", ".join(f"{k} {v:.1f}" for k, v in figures.pop("took").items())
    print(
        f"{n:,} pairs: {figures['whole_seconds']:.1f} s, CPU {figures['whole_cpu']:.1f} s ({took}), "
        f"peak {figures['whole_gb']:.2f} GB, {figures.pop('before_gb'):.2f} GB of it the pairs"
    )
    figures |= compare_rouge(pairs) | compare_bootstrap(records, again)
    ok = all(figures[k] <= bar if k in AT_MOST else figures[k] >= bar for k, bar in bars.items())
    print(
        json.dumps(
            dict(
                bench="metrics",
                figures={k: float(f"{v:.3g}") for k, v in figures.items()},
                bars=bars,
                ok=ok,
            )
        )
    )
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
