"""`08_grpo` at smoke size, twice: refused by the lab with its reasons, then trained all the same, from what the first
start had kept; what it wrote is held beside rewards and differences computed by other code.
Started by `.ci/test.py`."""

import csv
import json
import os
import re
import shutil
import sys
from statistics import fmean

from calls import ROOT, call

BIN = ROOT / ".venv" / "bin"
OUT = ROOT / "runs" / "smoke"
FOLDER = OUT / "grpo"
SYSTEMS = ("sft", "continued_sft", "rejection_sampling", "shuffled_rewards", "grpo")
ASKED = dict(
    reward="ec",
    folder="runs/smoke/grpo",
    n_proteins=300,
    arm_steps=4,
    changes="n_test_clusters=20 n_valid_clusters=5 draws=50",
    n_seeds=1,
    sft_steps=4,
    steps=2,
    prompts=4,
    k=2,
    max_new_tokens=8,
    n_prompts=30,
    n_test=30,
    n_valid=30,
    more_held=120,
)
CREDIT = (0.1, 0.2, 0.3, 0.4)  # of the four levels of an EC number
NUMBER = re.compile(r"(?:EC )?([1-7](?:\.(?:n?\d+|-)){0,3})\.?")


def start(label, **more):
    "Exit code and output of the notebook"
    given = [w for k, v in (ASKED | more).items() for w in ("-p", k, str(v))]
    notebook = OUT / "notebooks" / f"grpo-{label}.ipynb"
    notebook.parent.mkdir(parents=True, exist_ok=True)
    paths = [ROOT / "nbs" / "08_grpo.ipynb", notebook]
    known = dict(
        PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}",
        JUPYTER_PREFER_ENV_PATH="1",
        HF_HUB_OFFLINE="1",
    )
    options = ["--no-progress-bar", "--start-timeout", "600", "--log-output"]
    return call([BIN / "papermill", *paths, *options, *given], limit=1_200, **known)


def levels(answer):
    "The numbers of an answer, as tuples of levels; nothing where it is written otherwise"
    items = [item.strip() for item in answer.rstrip(".").split(";")]
    found = [NUMBER.fullmatch(item) for item in items]
    if not all(found):
        return None
    return {tuple(part for part in f[1].split(".") if part != "-") for f in found}


def paid(answer, truth):
    "The reward of an EC answer, level by level"
    stated, known = levels(answer), levels(truth)
    if stated is None:
        return 0.0
    earned = possible = 0.0
    for level, credit in enumerate(CREDIT, 1):
        there, here = ({n[:level] for n in of if len(n) >= level} for of in (known, stated))
        if there:
            possible += credit
            earned += credit * 2 * len(there & here) / (len(there) + len(here))
    return 0.1 + 0.9 * earned / possible


def rows(name):
    "A table that the notebook wrote"
    with open(FOLDER / f"ec_{name}.csv", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def value(table, **where):
    "The one value of a table's rows"
    found = [r for r in table if all(r[k] == v for k, v in where.items())]
    if len(found) != 1:
        sys.exit(f"{len(found)} rows with {where}")
    return float(found[0]["value"])


def wrong_rewards():
    "What of the tables other code does not find"
    scores, differences, bad = rows("results"), rows("differences"), []
    means = {}
    for system in SYSTEMS:
        answers = [r for r in rows("samples") if r["system"] == system]
        means[system] = fmean(paid(r["prediction"], r["answer"]) for r in answers)
        told = value(scores, system=system, metric="reward")
        if abs(told - means[system]) > 1e-4:
            bad.append(f"reward of {system}: {told} in the table, {means[system]} by other code")
    for system in ("sft", "continued_sft"):
        asked = dict(system="grpo", against=system, metric="reward")
        told, here = value(differences, **asked), means["grpo"] - means[system]
        if abs(told - here) > 1e-4:
            bad.append(f"grpo less {system}: {told} in the table, {here} by other code")
    return bad


def wrong_files():
    "What of log, checks, facts and page is not as it has to be"
    facts = json.loads((FOLDER / "ec.json").read_text(encoding="utf-8"))
    log, checks, bad = rows("log"), rows("checks"), []
    for system in ("grpo", "shuffled_rewards"):
        steps = [r["step"] for r in log if r["system"] == system]
        if steps != [str(n + 1) for n in range(ASKED["steps"])]:
            bad.append(f"the log of {system} has steps {steps}")
    for system in SYSTEMS:
        kept = [r for r in checks if r["system"] == system and r["kept"] == "True"]
        best = max(float(r["reward"]) for r in checks if r["system"] == system)
        if len(kept) != 1 or float(kept[0]["reward"]) != best:
            bad.append(f"{system} keeps {kept}, not the weights that earn {best}")
    if facts["best"] not in ("continued_sft", "rejection_sampling", "vote"):
        bad.append(f"the best control is {facts['best']}")
    page = (FOLDER / "ec.html").read_text(encoding="utf-8")
    lacks = [t for t in ("What it gave", "Why", "The lab before it") if t not in page]
    return bad + [f"the page lacks {t}" for t in lacks]


def starts():
    "When each supervised start was made, of every arm that is here"
    found = (ROOT / "runs").glob("tiny-mlp-*/grpo-ec/sft-0-*/model/config.json")
    return {p.parent.parent: p.stat().st_mtime_ns for p in found}


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    code, out = start("refused")
    refused = "training refuses to start: " in out and "`sft` is ahead of policy" in out
    if code != 1 or not refused or FOLDER.exists():
        sys.exit(f"{out[-3000:]}\nexpected exit code 1, the lab's reasons and no file; got {code}")
    before = starts()
    code, out = start("forced", force=True)
    if code:
        sys.exit(f"{out[-3000:]}\nwith force the exit code was {code}")
    bad = wrong_rewards() + wrong_files()
    if starts() != before:
        bad.append("the second start trained anew what the first had kept")
    if bad:
        sys.exit("\n".join(bad))
    print(f"{len(SYSTEMS)} trainings agree with other code")


if __name__ == "__main__":
    main()
