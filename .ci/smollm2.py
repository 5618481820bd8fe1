"""The numbers of figures/smollm2 computed anew from what the run left in assets/smollm2, by code that shares none
with ours; seconds.

Checked are, of the arm itself, *pairs won* and *first of 10* over all records and by task, with their intervals and
the number of records, and ROUGE-L by rouge-score where all answers of a task are ASCII; that no test protein is among
those of train; and that every number of summary.txt stands in a table. Which records count is read from records.csv.
Exit code 1 names what differs."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from rouge_score.rouge_scorer import RougeScorer

ROOT = Path(__file__).resolve().parent.parent
RUN, FOUND = ROOT / "assets" / "smollm2", ROOT / "figures" / "smollm2"
TIE = 1e-4


def ranked_rows():
    "A row a record: `pairs_won`, `first`, task, cluster, protein"
    table = pd.read_parquet(RUN / "ranking.parquet")
    rows = []
    for start in range(0, len(table), 10):
        ten = table.iloc[start : start + 10]
        if ten.record_id.tolist() != [f"{start // 10}#{k}" for k in range(10)]:
            sys.exit(f"ranking.parquet: row {start} does not begin a record of ten proteins")
        own, others = ten.score.iloc[0], ten.score.iloc[1:].to_numpy()
        lower, higher = (own - others > TIE).sum(), (others - own > TIE).sum()
        ties = 9 - lower - higher
        of = ten.iloc[0]
        best = 0.0 if higher else 1 / (1 + ties)
        rows.append(
            (start // 10, of.task, of.cluster, of.protein_id, of.answer, lower + ties / 2, best)
        )
    names = ["record", "task", "cluster", "protein_id", "answer", "won", "first"]
    return pd.DataFrame(rows, columns=names)


def interval(values, clusters, each):
    "Ends of the interval of a mean over resampled clusters"
    sums = pd.DataFrame(dict(v=values, n=each)).groupby(clusters).sum().to_numpy()
    chosen = np.random.default_rng(4321).integers(len(sums), size=(2_000, len(sums)))
    drawn = sums[chosen].sum(1)
    return np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])


def differing(what, said, value, n, ends):
    "What is wrong with a row of results.csv"
    if abs(said.value - value) > 1e-9:
        return f"{what}: {said.value} is said, {value} found"
    if said.n != n:
        return f"{what}: {said.n} records are said, {n} found"
    width = said.high - said.low
    for end, again in zip((said.low, said.high), ends, strict=True):
        if n >= 200 and abs(end - again) > 0.25 * width + 1e-3:
            return f"{what}: an interval ends at {end}, drawn anew at {again}"
    return ""


def check_ranking(results, rows):
    "Pairs won and first of 10 of the arm"
    wrong = []
    for task in ("all", *rows.task.unique()):
        some = rows if task == "all" else rows[rows.task == task]
        for metric, column, each in (("pairs", "won", 9), ("first", "first", 1)):
            said = results[(results.metric == f"which_protein_{metric}") & (results.task == task)]
            value = some[column].sum() / (each * len(some))
            ends = interval(some[column], some.cluster, each)
            wrong.append(differing(f"{metric} {task}", said.iloc[0], value, len(some), ends))
    return wrong


def check_answers(results, rows):
    "ROUGE-L of the arm, task by task; rouge-score drops letters beyond ASCII, so such tasks are passed over"
    scorer, wrong, seen = RougeScorer(["rougeL"], use_stemmer=False), [], 0
    for task, some in rows.groupby("task"):
        texts = some.answer.tolist() + some.prediction.tolist()
        if not all(text.isascii() for text in texts):
            continue
        pairs = zip(some.answer, some.prediction, strict=True)
        value = np.mean([scorer.score(a, p)["rougeL"].fmeasure for a, p in pairs])
        said = results[(results.metric == "rouge_l") & (results.task == task)].iloc[0]
        wrong.append(differing(f"rouge_l {task}", said, value, len(some), (said.low, said.high)))
        seen += 1
    return [*wrong, "" if seen else "no task has answers of ASCII alone"]


def check_summary(results, differences):
    "Every interval of summary.txt stands in a table"
    known = set()
    for table in (results, differences):
        for row in table.itertuples():
            ends = row.value, row.low, row.high
            known.add("{:.3f} [{:.3f}, {:.3f}]".format(*ends))
            known.add("{:+.3f} [{:+.3f}, {:+.3f}]".format(*ends))
    text = (FOUND / "summary.txt").read_text()
    said = re.findall(r"[+-]?\d\.\d{3} \[[^\]]+\]", text)
    if len(said) < 20:
        return [f"summary.txt holds {len(said)} intervals only"]
    return [f"summary.txt: {s} is in no table" for s in said if s not in known]


def main():
    results = pd.read_csv(FOUND / "results.csv")
    differences = pd.read_csv(FOUND / "differences.csv")
    facts = json.loads((FOUND / "results.json").read_text())
    counted = pd.read_csv(FOUND / "records.csv", dtype=str, keep_default_na=False)
    counted = counted[counted.why == ""]
    arm = facts["config"]["model"]["arch"]
    rows = ranked_rows()
    kept = counted.record_id[counted.kind == "ranked"].astype(int)
    rows = rows[rows.record.isin(kept)]
    answers = pd.read_parquet(RUN / "predictions.parquet")
    answers = answers[answers.record_id.isin(counted.record_id[counted.kind == "answered"])]
    trained = set((RUN / "train_proteins.txt").read_text().split())
    said = results[(results.system == arm) & (results.split == "test")]
    wrong = [
        f"{p} was trained on" for p in {*rows.protein_id, *answers.protein_id}.intersection(trained)
    ]
    wrong += check_ranking(said, rows) + check_answers(said, answers)
    wrong += check_summary(results, differences)
    wrong = [w for w in wrong if w]
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{arm}: {len(rows)} ranked records and {len(answers)} answers scored anew, and agree")


if __name__ == "__main__":
    main()
