"""README.md from nbs/index.ipynb and RESULTS.md from nbs/results.ipynb; in all, sentences and scores from figures/.
With --check nothing is written: exit code 1 says that they differ."""

import csv
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"index.ipynb": "README.md", "results.ipynb": "RESULTS.md"}  # below nbs/, and in the root
START = "<!-- from figures/summary.txt and figures/results.csv, by `make readme` -->"
END = "<!-- end of the table -->"
ALL = "<!-- from figures/tiny_all/summary.txt and results.csv, by `make readme` -->"
ALL_END = "<!-- end of the table of all proteins -->"
LARGER = "<!-- from figures/smollm2/summary.txt, by `make readme` -->"
LARGER_END = "<!-- end of the second table -->"
TASKS = "<!-- from figures/downstream, by `make readme` -->"
TASKS_END = "<!-- end of the table of tasks -->"
REWARDS = "<!-- from figures/grpo, by `make readme` -->"
REWARDS_END = "<!-- end of the table of rewards -->"
TASK_ORDER = ("go", "go_component", "go_process", "ec", "location", "stability", "ppi")
ARMS = ("mlp", "perceiver", "flamingo", "text", "blind")
SHOWN = dict(
    which_protein_pairs="pairs won",
    which_protein_first="first of 10",
    loss="loss",
    rouge_l="ROUGE-L",
    information_f1="information F1",
    hallucination_rate="hallucination",
)
HEAD = "<!-- made from nbs/{} by `make readme`: edit that -->"


def cell(row):
    return "{:.3f} [{:.3f}, {:.3f}]".format(*(float(row[k]) for k in ("value", "low", "high")))


def table(folder):
    "The arms' and baselines' scores as Markdown: value [95 % interval]; who wins most pairs first"
    with open(folder / "results.csv", encoding="utf-8") as f:
        rows = [r for r in csv.DictReader(f) if r.get("task", "all") == "all"]
    cells = {(r["system"], r["metric"]): cell(r) for r in rows}
    shown = {m: name for m, name in SHOWN.items() if any(r["metric"] == m for r in rows)}
    won = {r["system"]: float(r["value"]) for r in rows if r["metric"] == "which_protein_pairs"}
    lines = [["", *shown.values()], ["---"] * (len(shown) + 1)]
    for system in sorted(dict.fromkeys(r["system"] for r in rows), key=lambda s: -won.get(s, -1)):
        lines.append([system.replace("_", " "), *(cells.get((system, m), "") for m in shown)])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{text}\n\nRecords: {rests(rows, shown)}."


def sentences(text):
    "The lines before the first empty one, a list in Markdown"
    lead, _, _ = text.partition("\n\n")
    return "\n".join(f"{n}. {line}" for n, line in enumerate(lead.splitlines(), 1))


def lead_and_table(folder):
    "What the report's lead says, and the table of the run"
    text = (folder / "summary.txt").read_text(encoding="utf-8")
    return f"{sentences(text)}\n\n{table(folder)}"


def larger():
    "Sentences and tables of the run with a larger language model, as `make smollm2` wrote them"
    text = (ROOT / "figures" / "smollm2" / "summary.txt").read_text(encoding="utf-8")
    return f"{sentences(text)}\n\n{text.partition(chr(10) * 2)[2].strip()}"


def task_results(folder, task):
    "What is known of a task, and its headline by system: value, interval, name"
    facts = json.loads((folder / f"{task}.json").read_text(encoding="utf-8"))
    with open(folder / f"{task}_results.csv", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    of = ("likelihood", facts["headline"], "test")
    return facts, {r["system"]: r for r in rows if (r["answered"], r["metric"], r["split"]) == of}


def task_lines(folder, arms):
    "One line a task: the arms, and the best that is none of them"
    lines = []
    for task in (t for t in TASK_ORDER if (folder / f"{t}.json").exists()):
        facts, found = task_results(folder, task)
        sign = -1 if facts["better"] < 0 else 1
        others = {
            s: sign * float(r["value"]) for s, r in found.items() if s.split("_")[0] not in ARMS
        }
        best = max(sorted(others), key=others.get)
        cells = [cell(found[s]) if s in found else "" for s in arms]
        of = f" of {facts['clusters']:,} clusters" if facts["clusters"] < facts["test"] else ""
        counts = f"{facts['test']:,} records{of}, {facts['valid']:,} of validation"
        what = f"{facts['label']}: {facts['headline_label']} ({counts})"
        lines.append([what, *cells, f"{best.replace('_', ' ')} {cell(found[best])}"])
    return lines


def tasks():
    "The headline of every task: of the default's arms, of those on all proteins, and of the larger language model's"
    folder, parts = ROOT / "figures" / "downstream", []
    asked = {"the default": (folder, ARMS), "all proteins": (folder / "tiny_all", ARMS)}
    asked["SmolLM2"] = folder / "smollm2", ("mlp", "mlp_votes")
    for name, (where, arms) in asked.items():
        head = [name, *(a.replace("_", ", ") for a in arms), "best of the rest"]
        lines = [head, ["---"] * len(head), *task_lines(where, arms)]
        if len(lines) > 2:
            parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "\n\n".join(parts)


def reward_line(facts, scores):
    "Start, policy, best control, shuffled rewards and best baseline of one reward"
    best = facts["best"]
    known = (
        "arm",
        "sft",
        "grpo",
        "continued_sft",
        "rejection_sampling",
        "shuffled_rewards",
        "vote",
    )
    others = {s: float(r["value"]) for s, r in scores.items() if s not in known}
    other = max(sorted(others), key=others.get)
    what = f"{facts['label']} ({facts['records']['test']:,} records)"
    cells = [cell(scores[s]) for s in ("sft", "grpo")]
    cells += [f"{s.replace('_', ' ')} {cell(scores[s])}" for s in (best, other)]
    return [what, *cells[:2], cells[2], cell(scores["shuffled_rewards"]), cells[3]]


def rewards():
    "What training by rewards gave, one line a reward, and the sentences on it"
    head = ["reward", "start", "GRPO", "best control", "shuffled rewards", "best of the rest"]
    lines, sentences = [head, ["---"] * len(head)], []
    paths = sorted((ROOT / "figures" / "grpo").glob("*.json"), reverse=True)
    if not paths:
        return "`make grpo` was not run for this version so far: there are no numbers yet."
    for path in paths:
        facts = json.loads(path.read_text(encoding="utf-8"))
        with open(path.with_name(f"{path.stem}_results.csv"), encoding="utf-8") as f:
            rows = [r for r in csv.DictReader(f) if r["metric"] == "reward"]
        lines.append(reward_line(facts, {r["system"]: r for r in rows}))
        chosen = facts["claims"][0], *facts["limits"]
        sentences += [f"- {facts['label']}: {sentence}" for sentence in chosen]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{table}\n\n" + "\n".join(sentences)


def rests(rows, shown):
    "How many records and clusters each column rests on, from the system with the fewest to the one with the most"
    names = {}
    for metric, name in shown.items():
        of_metric = [r for r in rows if r["metric"] == metric]
        counts = [sorted({int(r[what]) for r in of_metric}) for what in ("n", "clusters")]
        n, clusters = (" to ".join(f"{k:,}" for k in dict.fromkeys((c[0], c[-1]))) for c in counts)
        names.setdefault(f"{n} of {clusters} clusters", []).append(name)
    return "; ".join(f"{', '.join(of_same)}: {size}" for size, of_same in names.items())


PARTS = {
    (START, END): partial(lead_and_table, ROOT / "figures"),
    (ALL, ALL_END): partial(lead_and_table, ROOT / "figures" / "tiny_all"),
    (LARGER, LARGER_END): larger,
    (TASKS, TASKS_END): tasks,
    (REWARDS, REWARDS_END): rewards,
}


def filled(text, name):
    "A text with sentences and tables between their marks"
    for (start, end), part in PARTS.items():
        before, found, rest = text.partition(start)
        if found:
            _, found, after = rest.partition(end)
            if not found:
                sys.exit(f"nbs/{name} has the line {start}, but not {end} behind it")
            text = f"{before}{start}\n{part()}\n{end}{after}"
    return text


def sources(notebook):
    "The texts of a notebook's cells"
    return ["".join(each["source"]) for each in notebook["cells"]]


def require_marks(notebooks):
    "Every table belongs into one place"
    everything = "\n".join(text for each in notebooks for text in sources(each))
    for start, _ in PARTS:
        if everything.count(start) != 1:
            sys.exit(
                f"{' or '.join(PAGES)} must hold once the line {start}, behind which a table belongs"
            )


def with_tables(name, notebook):
    "A page's notebook as text, with the present tables"
    for each, source in zip(notebook["cells"], sources(notebook), strict=True):
        each["source"] = filled(source, name).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def render(name, notebook):
    "A notebook's text as Markdown; its links start in nbs/, those of the page in the root"
    call = [
        sys.executable,
        "-m",
        "nbconvert",
        "--to",
        "markdown",
        "--stdout",
        "--stdin",
        "--log-level",
        "ERROR",
    ]
    text = subprocess.run(
        call, cwd=ROOT, check=True, capture_output=True, text=True, encoding="utf-8", input=notebook
    ).stdout
    for mark in (mark for pair in PARTS for mark in pair):
        text = text.replace(mark + "\n", "")
    return (
        f"{HEAD.format(name)}\n\n" + re.sub(r'(\]\(|src="|href=")\.\./', r"\1", text).strip() + "\n"
    )


def main():
    paths = {name: ROOT / "nbs" / name for name in PAGES}
    before = {name: path.read_text(encoding="utf-8") for name, path in paths.items()}
    notebooks = {name: json.loads(text) for name, text in before.items()}
    require_marks(notebooks.values())
    written = {paths[name]: with_tables(name, each) for name, each in notebooks.items()}
    written |= {ROOT / PAGES[name]: render(name, written[path]) for name, path in paths.items()}
    changed = [
        p for p, text in written.items() if not p.exists() or p.read_text(encoding="utf-8") != text
    ]
    if "--check" in sys.argv:
        names = ", ".join(p.name for p in changed)
        sys.exit(
            f"{names}: not what notebook and figures/ give: run `make readme`" if changed else 0
        )
    for path in changed:
        path.write_text(written[path], encoding="utf-8")


main()
