"""Ten numbers and ten claims of a report, computed anew from what the runs wrote, by code that shares none with ours.

`python .ci/recompute.py runs/report runs/figures` reads results.csv, the runs that cards.json names, their parquet
files and cards. Values must agree to 1e-9; the ends of an interval are drawn again with other random numbers, and
must lie within a quarter of its width (not with --values, for a run whose intervals rest on few draws).
Exit code 1 names what differs."""

import argparse
import json
import random
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from rouge_score.rouge_scorer import RougeScorer

ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
LOSSES = ("loss", "loss_true", "loss_swapped", "loss_shuffled", "loss_null", "bits_per_byte")
RANKINGS = ("which_protein_pairs", "which_protein_first")
TEXTS = (*ROUGE, "exact_match")
SMALL = 12  # clusters below which two bootstraps differ too much to be compared


def only(folder, pattern):
    "The one file of a pattern, the newest where it was made several times"
    found = sorted(folder.glob(pattern), key=lambda p: p.stat().st_mtime)
    if not found:
        sys.exit(f"{folder}: no {pattern}")
    return found[-1]


def measured(folder, card):
    "Where the measurement lies that a card was made from: of several the one that answered as many records"
    answered = card["counts"]["records"]
    found = sorted(folder.glob("evaluation-*/measurement.json"), key=lambda p: p.stat().st_mtime)
    found = [p.parent for p in found if json.loads(p.read_text())["answered"] == answered]
    if not found:
        sys.exit(f"{folder}: no measurement with {answered} answers, as its card has")
    return found[-1]


def read_systems(runs, names):
    "Losses, answers and rankings of each arm and baseline"
    tables = {}
    for name in names:
        card = json.loads(only(runs / name, "card-*/card.json").read_text())
        place = measured(runs / name, card)
        for kind in ("losses", "samples", "ranking"):
            table = pd.read_parquet(place / f"{kind}.parquet")
            tables[card["run"]["arch"] if "arch" in card["run"] else name.split("-")[1], kind] = (
                table
            )
    return tables


def add_baselines(tables, runs, arm):
    "The baselines of the same records"
    asked = tables[arm, "samples"].drop(columns=["prediction", "finish"])
    for folder in runs.glob("shared/baselines-*"):
        answers = pd.read_parquet(folder / "answers.parquet")
        ranking = pd.read_parquet(folder / "ranking.parquet")
        if set(answers.record_id) != set(asked.record_id):
            continue
        for system, of_system in answers.groupby("system"):
            tables[system, "samples"] = asked.merge(of_system, on="record_id")
        for system, of_system in ranking.groupby("system"):
            tables[system, "ranking"] = of_system


def loss_records(table, metric):
    "Two columns, by record: nats (or bits) and what they are divided by"
    kind = metric.removeprefix("loss_") if metric.startswith("loss_") else "true"
    known = table[table[kind].notna()]
    size, unit = known["count"], 1.0
    if metric == "bits_per_byte":
        size, unit = known.bytes, 1 / np.log(2)
    return known.assign(top=known[kind] * unit, below=size)


def ranking_records(ranking, metric, records):
    "Two columns, by record: pairs won and pairs, or first and 1; within 1e-4 nats it is a tie"
    rows = []
    for record_id, each in ranking.groupby("record_id", sort=False):
        own = each.nll[each.place == 0].item()
        others = each.nll[each.place > 0].to_numpy()
        won, lost = (others - own > 1e-4).sum(), (own - others > 1e-4).sum()
        ties = len(others) - won - lost
        if metric == "which_protein_pairs":
            rows.append((record_id, won + ties / 2, len(others)))
        elif len(others) == 9:
            rows.append((record_id, 0.0 if lost else 1 / (1 + ties), 1))
    table = pd.DataFrame(rows, columns=["record_id", "top", "below"])
    return table.merge(records[["record_id", "task", "cluster"]], on="record_id")


def text_records(samples, metric):
    "Two columns, by record: the score of an answer, and 1"
    pairs = zip(samples.answer, samples.prediction, strict=True)
    if metric == "exact_match":
        scores = [float(a.strip() == p.strip()) for a, p in pairs]
    else:
        scorer = RougeScorer([ROUGE[metric]], use_stemmer=False)
        scores = [scorer.score(a, p)[ROUGE[metric]].fmeasure for a, p in pairs]
    return samples.assign(top=scores, below=1.0)


def records_of(tables, system, metric, records):
    "By record, what a metric sums and divides by; None where this script does not compute it"
    if metric in LOSSES and (system, "losses") in tables:
        return loss_records(tables[system, "losses"], metric)
    if metric in RANKINGS and (system, "ranking") in tables:
        return ranking_records(tables[system, "ranking"], metric, records)
    if metric in TEXTS and (system, "samples") in tables:
        return text_records(tables[system, "samples"], metric)
    return None


def draws(table, others=None, n=2_000):
    "Scores of resampled clusters; with others, differences on the same clusters"
    columns = ["top", "below"]
    sums = table.groupby("cluster")[columns].sum()
    beside = sums if others is None else others.groupby("cluster")[columns].sum().loc[sums.index]
    chosen = np.random.default_rng(12345).integers(len(sums), size=(n, len(sums)))
    top, below = (sums[c].to_numpy()[chosen].sum(1) for c in columns)
    if others is None:
        return top / below
    return top / below - beside.top.to_numpy()[chosen].sum(1) / beside.below.to_numpy()[chosen].sum(
        1
    )


def differs(what, said, found, ends, sample, within=1e-9):
    "What is wrong with a number and its interval, empty where nothing is"
    if abs(said - found) > within:
        return f"{what}: {said} is said, {found} found"
    if sample is None:
        return ""
    low, high = ends
    width = max(high - low, 1e-9)
    for end, q in ((low, 2.5), (high, 97.5)):
        again = np.percentile(sample, q)
        if abs(again - end) > 0.25 * width + 1e-3:
            return f"{what}: an interval ends at {end}, drawn anew at {again}"
    return ""


def check_numbers(results, tables, records, intervals, n=10):
    "Ten rows of results.csv at random"
    wrong, seen = [], 0
    for row in results.sample(frac=1, random_state=7).itertuples():
        if seen == n:
            break
        table = records_of(tables, row.system, row.metric, records)
        if table is None or row.clusters < (SMALL if intervals else 1):
            continue
        table = table if row.task == "all" else table[table.task == row.task]
        found, seen = table.top.sum() / table.below.sum(), seen + 1
        what = f"{row.system} {row.metric} {row.task}"
        sample = draws(table) if intervals else None
        wrong.append(differs(what, row.value, found, (row.low, row.high), sample))
        if len(table) != row.n:
            wrong.append(f"{what}: {row.n} records are said, {len(table)} found")
    if not seen:
        sys.exit("no number of results.csv could be computed anew")
    print(f"{seen} numbers computed anew")
    return [w for w in wrong if w]


CLAIM = re.compile(
    r"(?P<a>\w+) against (?P<b>[\w -]+), (?P<metric>[^:]+) over all records: .*?"
    r"(?:(?P<way>higher|lower) by (?P<size>[\d.]+)|established \((?P<value>[+-][\d.]+))"
    r".*?interval (?P<low>[+-][\d.]+) to (?P<high>[+-][\d.]+)"
)
METRICS = {
    "loss": "loss",
    "pairs won": "which_protein_pairs",
    "first of 10": "which_protein_first",
    "ROUGE-L": "rouge_l",
}
SYSTEMS = {
    "ridge on features": "ridge_feature",
    "ridge on composition": "composition",
    "ridge on random features": "ridge_random",
}


def check_claims(runs, names, tables, records, intervals, n=10):
    "Ten sentences of the cards at random"
    cards = [json.loads(only(runs / name, "card-*/card.json").read_text()) for name in names]
    said = [sentence for card in cards for sentence in card["claims"]]
    random.Random(7).shuffle(said)
    wrong, seen = [], 0
    for sentence in said:
        found = CLAIM.match(sentence)
        if seen == n or not found or found["metric"] not in METRICS:
            continue
        metric, b = METRICS[found["metric"]], SYSTEMS.get(found["b"], found["b"])
        one, two = (records_of(tables, s, metric, records) for s in (found["a"], b))
        least = SMALL if intervals else 1
        if one is None or two is None or one.cluster.nunique() < least:
            continue
        seen += 1
        value = float(
            found["value"] or f"{'+' if found['way'] == 'higher' else '-'}{found['size']}"
        )
        gap = one.top.sum() / one.below.sum() - two.top.sum() / two.below.sum()
        ends = float(found["low"]), float(found["high"])
        sample = draws(one, two) if intervals else None
        wrong.append(differs(sentence, value, gap, ends, sample, within=5.1e-4))  # it has 3 digits
        established = ends[0] > 0 or ends[1] < 0
        if established == ("no difference" in sentence):
            wrong.append(f"{sentence}: the interval says otherwise")
    print(f"{seen} claims computed anew")
    return [w for w in wrong if w]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("report", type=Path, help="folder of results.csv")
    parser.add_argument("figures", type=Path, help="folder of cards.json, which names the runs")
    parser.add_argument("--values", action="store_true", help="leave out the intervals")
    return parser.parse_args()


def main():
    asked = arguments()
    runs = Path(__file__).resolve().parent.parent / "runs"
    names = json.loads((asked.figures / "cards.json").read_text())["origin"]["runs"]
    results = pd.read_csv(asked.report / "results.csv")
    tables = read_systems(runs, names)
    arm = next(system for system, _ in tables)
    add_baselines(tables, runs, arm)
    more = tables, tables[arm, "losses"], not asked.values
    wrong = check_numbers(results, *more) + check_claims(runs, names, *more)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
