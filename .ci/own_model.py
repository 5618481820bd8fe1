"""Does what docs/score_your_model.md says, at smoke size: the benchmark's folder, answers by the command and by the
page's own lines of Python, and their cards. Started by `.ci/test.py` after the smoke runs."""

import json
import re
import shutil
import sys

from calls import ROOT, call

PAGE = ROOT / "docs" / "score_your_model.md"
HERE = "runs/smoke/own_model"
SMALL = "n_proteins=300 n_test_clusters=20 n_valid_clusters=5 n_generate=2"
LIMIT = 300  # seconds


def blocks(language):
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", text)


def here(text):
    "The page's lines with its files below runs/smoke"
    return text.replace("runs/benchmark", f"{HERE}/benchmark").strip()


def done(command, codes=(0,)):
    "Run a command; end with its output where its exit code is another"
    code, out = call(command, limit=LIMIT, shell=True, HF_HUB_OFFLINE="1")
    if code not in codes:
        sys.exit(f"{command}\nexit code {code}, not {codes}:\n{out}")
    print(f"ok     {command}", flush=True)


def main():
    shutil.rmtree(ROOT / HERE, ignore_errors=True)
    (ROOT / HERE).mkdir(parents=True)
    write, predict, audit, _ = map(here, blocks("sh"))
    done(f"{write} {SMALL}")
    done(f"{predict} --tokens 8")
    script = ROOT / HERE / "own.py"
    script.write_text(here(blocks("python")[0]).replace("max_new_tokens=64", "max_new_tokens=8"))
    done(f".venv/bin/python {HERE}/own.py")
    done(f"{audit} --draws 50")
    files = [ROOT / HERE / f"benchmark_{name}.jsonl" for name in ("tiny_lm", "own")]
    ours, own = ([json.loads(line) for line in f.read_text().splitlines()] for f in files)
    assert [r["prediction"] for r in own] == [r["prediction"] for r in ours], (
        "the page answers otherwise"
    )
    card = json.loads((ROOT / HERE / "benchmark_card" / "card.json").read_text())
    assert card["counts"]["records"] == len(ours) and card["leaks"] == 0, card["counts"]


main()
