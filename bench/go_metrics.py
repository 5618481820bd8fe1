"""Fmax, Smin, their weighted forms and coverage of `protein_llm.tasks.go` against `cafaeval` (Piovesan et al. 2024,
GPL-3), in the version of bench/requirements.txt.

`python bench/go_metrics.py` compares on the example that `cafaeval` ships (its ontology, truth and five prediction
files) and on 200 random cases, `--quick` on 20. A case has an ontology of up to 40 terms in which a term has one to
three parents, some by `part_of`, some terms with an alternative id; annotations of 3 to 12 proteins by any of these
ids; scores with two to six digits, many of them 0 or on a threshold; and information accretion from other
annotations. `cafaeval` reads files and runs with `no_orphans=True`, so that roots are left out of the plain scores,
too (it keeps them by default; weighted ones never have roots, which tell nothing). Ours reads the same OBO file.
Compared are precision, recall and coverage at each threshold where anything is predicted, plain and weighted, what is
missed and wrong in bits, and the best scores. `difference` is the largest one of all; the bar is 1e-6.

`--write` writes the first 20 cases with what `cafaeval` makes of them to bench/go_metrics.json, which the notebook
of the task compares with, so that its test needs no `cafaeval`. Cases are the same each time.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from peers import add_peers

ROOT = Path(__file__).resolve().parent.parent
CASES, QUICK_CASES, WRITTEN, BAR = 200, 20, 20, 1e-6
BEST = dict(go_fmax=("f", "f"), go_fmax_weighted=("f_w", "f_w"), go_smin=("s_w", None))
CURVES = dict(  # ours: theirs
    covered="cov",
    precision="pr",
    recall="rc",
    bits_covered="cov_w",
    bits_precision="pr_w",
    bits_recall="rc_w",
    bits_missed="ru_w",
    bits_wrong="mi_w",
)


def random_terms(rng):
    "Rows of an ontology: ids in an order in which parents come first"
    n = int(rng.integers(6, 41))
    ids = [f"GO:{i:07d}" for i in range(1, n + 1)]
    rows = []
    for i, go_id in enumerate(ids):
        above = rng.choice(i, min(i, int(rng.integers(1, 4))), replace=False) if i else []
        alternative = f"GO:1{i:06d}" if rng.random() < 0.2 else ""
        parents = "|".join(sorted(ids[p] for p in above))
        rows.append((go_id, "random", f"term {i}", alternative, parents))
    return pd.DataFrame(rows, columns=["id", "namespace", "name", "alt_ids", "parents"])


def random_case(seed):
    "Terms, annotations and scores as the head of this file states them"
    rng = np.random.default_rng(seed)
    terms = random_terms(rng)
    ids = terms.id.tolist()
    usable = ids[1:] + [a for a in terms.alt_ids if a]

    def annotated(pool):
        return sorted(map(str, rng.choice(pool, int(rng.integers(1, 5)), replace=True)))

    proteins = int(rng.integers(3, 13))
    chosen = sorted(map(str, rng.choice(ids, int(rng.integers(2, len(ids) + 1)), replace=False)))
    scores = rng.beta(0.4, 1.2, (proteins, len(chosen))).round(int(rng.integers(2, 7)))
    scores[rng.random(scores.shape) < 0.4] = 0
    scores[0, -1] = 0.9  # there has to be a prediction of a term that is no root
    return dict(
        terms=terms.to_dict("list"),
        train=[annotated(ids[1:]) for _ in range(int(rng.integers(5, 60)))],
        truths=[annotated(usable) for _ in range(proteins)],
        chosen=chosen,
        scores=scores.tolist(),
    )


def obo_text(terms, seed):
    "The ontology as a file; one parent in four by `part_of`"
    rng = np.random.default_rng(seed)
    lines = ["format-version: 1.2", "ontology: random", ""]
    for term in pd.DataFrame(terms).itertuples():
        lines += ["[Term]", f"id: {term.id}", f"name: {term.name}", f"namespace: {term.namespace}"]
        lines += [f"alt_id: {term.alt_ids}"] if term.alt_ids else []
        for parent in filter(None, term.parents.split("|")):
            is_part = rng.random() < 0.25
            lines.append(f"relationship: part_of {parent}" if is_part else f"is_a: {parent}")
        lines.append("")
    return "\n".join(lines) + "\n"


def write_case(case, seed, folder):
    "The files that `cafaeval` reads, but the information; our ontology from the same OBO file"
    from protein_llm.scoring.ontology import read_obo
    from protein_llm.tasks.go import build_ontology

    (folder / "predictions").mkdir()
    (folder / "terms.obo").write_text(obo_text(case["terms"], seed))
    truth = [f"p{i}\t{t}" for i, terms in enumerate(case["truths"]) for t in terms]
    (folder / "truth.tsv").write_text("\n".join(truth) + "\n")
    rows = [
        f"p{i}\t{t}\t{score!r}"
        for i, row in enumerate(case["scores"])
        for t, score in zip(case["chosen"], row, strict=True)
        if score > 0
    ]
    (folder / "predictions" / "scores.tsv").write_text("\n".join(rows) + "\n")
    return build_ontology(read_obo(folder / "terms.obo"), "random")


def ours(known, truths, chosen, scores, bits):
    "Means at each threshold, and best scores"
    from protein_llm.scoring.table import METRICS
    from protein_llm.tasks.go import GO_RANKED, THRESHOLDS, rank_columns

    live = [[i for t in terms for i in known.moved.get(t, (t,))] for terms in truths]
    columns = rank_columns(known, live, chosen, scores, bits)
    sums = {c: float(np.sum(v)) for c, v in columns.items()} | dict(records=len(truths))
    curves = pd.DataFrame({c: [sums[f"{c}_{t:.2f}"] for t in THRESHOLDS] for c in CURVES})
    for prefix in ("", "bits_"):
        covered = curves[prefix + "covered"].replace(0, np.nan)
        curves[prefix + "precision"] = (curves[prefix + "precision"] / covered).fillna(0)
    mean = [c for c in CURVES if not c.endswith("precision")]
    curves[mean] /= len(truths)
    best = {m: METRICS[m].score(np.array([sums[c] for c in METRICS[m].columns])) for m in GO_RANKED}
    return curves, {m: float(v) for m, v in best.items()}


def theirs(obo, predictions, truth, bits, folder):
    "What `cafaeval` makes of files: (curves, best scores) by prediction file"
    from cafaeval.evaluation import cafa_eval

    ia = folder / "ia.txt"
    ia.write_text("".join(f"{t} {b!r}\n" for t, b in bits.items()))
    table, best = cafa_eval(str(obo), str(predictions), str(truth), ia=str(ia), no_orphans=True)
    found = {}
    for name, curves in table.groupby(level="filename"):
        curves = curves.reset_index("tau")
        scores = dict(
            go_fmax=best["f"].xs(name, level="filename").f.iloc[0],
            go_fmax_weighted=best["f_w"].xs(name, level="filename").f_w.iloc[0],
            go_smin=curves.s_w.min(),
            go_coverage=best["f"].xs(name, level="filename")["cov"].iloc[0],
        )
        found[name] = curves, {m: float(v) for m, v in scores.items()}
    return found


def difference(mine, peer):
    "The largest difference, at thresholds where the peer has a prediction and of the best scores"
    from protein_llm.tasks.go import THRESHOLDS

    (curves, best), (expected, best_expected) = mine, peer
    at = np.searchsorted(THRESHOLDS, expected.tau.to_numpy() - 1e-9)
    here = curves.iloc[at][list(CURVES)].to_numpy()
    there = expected[list(CURVES.values())].to_numpy()
    ends = [abs(best[m] - best_expected[m]) for m in best_expected]
    return max(np.abs(here - there).max(), *ends)


def compare_case(seed):
    "A random case, what `cafaeval` makes of it, and the largest difference"
    from protein_llm.tasks.go import information_accretion

    case = random_case(seed)
    with tempfile.TemporaryDirectory() as d:
        folder = Path(d)
        known = write_case(case, seed, folder)
        bits = information_accretion(case["train"], known).bits
        files = folder / "terms.obo", folder / "predictions", folder / "truth.tsv"
        ((_, peer),) = theirs(*files, bits, folder).items()
        mine = ours(known, case["truths"], case["chosen"], np.array(case["scores"]), bits)
    return case | dict(cafaeval=peer[1]), difference(mine, peer)


def read_predictions(path, proteins, known):
    "Scores of a file as a matrix [n, C], and the terms that it scores"
    table = pd.read_csv(path, sep="\t", header=None, names=["protein", "term", "score"])
    table = table[table.protein.isin(proteins) & table.term.isin(known.names)]
    wide = table.pivot_table(index="protein", columns="term", values="score", aggfunc="max")
    return wide.columns.tolist(), wide.reindex(proteins).fillna(0).to_numpy()


def compare_example():
    "The largest difference on the example that `cafaeval` ships, and how many files that are"
    import cafaeval

    from protein_llm.scoring.ontology import read_obo
    from protein_llm.tasks.go import build_ontology, information_accretion

    data = Path(cafaeval.__file__).parent / "data" / "example"
    go = read_obo(data / "IDPO_disorder_function.obo")
    known = build_ontology(go, "disorder_function")
    truth = pd.read_csv(data / "ground_truth.tsv", sep="\t", header=None).iloc[:, :2]
    truth = truth[truth[1].isin(known.names)].groupby(0)[1].agg(list)
    bits = information_accretion(truth, known).bits
    with tempfile.TemporaryDirectory() as d:
        files = data / "IDPO_disorder_function.obo", data / "predictions", data / "ground_truth.tsv"
        peers = theirs(*files, bits, Path(d))
    worst = 0
    for name, peer in peers.items():
        chosen, scores = read_predictions(data / "predictions" / name, list(truth.index), known)
        worst = max(worst, difference(ours(known, truth, chosen, scores, bits), peer))
    return worst, len(peers)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="20 random cases instead of 200")
    parser.add_argument("--write", action="store_true", help="write bench/go_metrics.json")
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT)]
    add_peers()
    cases = [compare_case(seed) for seed in range(QUICK_CASES if args.quick else CASES)]
    example, files = compare_example()
    if args.write:
        written = [case for case, _ in cases[:WRITTEN]]
        text = json.dumps(
            dict(made_by="bench/go_metrics.py --write", cafaeval="1.3.0", cases=written)
        )
        (ROOT / "bench" / "go_metrics.json").write_text(text + "\n")
    figures = dict(random=float(max(d for _, d in cases)), example=float(example))
    figures |= dict(cases=len(cases), example_files=files, difference=max(figures.values()))
    ok = figures["difference"] <= BAR
    print(json.dumps(dict(bench="go_metrics", figures=figures, bars=dict(difference=BAR), ok=ok)))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
