"README.md from nbs/index.ipynb and figures/cards.csv. With --check nothing is written: exit code 1 says that they differ."
import csv, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def table():
    "The arms' and baselines' scores as Markdown: value [95 % interval]"
    with open(ROOT/"figures"/"cards.csv") as f: rows = list(csv.DictReader(f))
    shown = dict(rouge_l="ROUGE-L", bleu="BLEU", entity_f1="entity F1", hallucination_rate="hallucination")
    cells = {(r["system"], r["score"]): "{:.3f} [{:.3f}, {:.3f}]".format(*(float(r[k]) for k in ("value", "low", "high"))) for r in rows}
    lines = [[s.replace("_", " "), *(cells[s, k] for k in shown)] for s in dict.fromkeys(r["system"] for r in rows)]
    return "\n".join("| "+" | ".join(l)+" |" for l in (["", *shown.values()], ["---"]*(len(shown)+1), *lines))


def render():
    "The notebook as Markdown; its links start in nbs/, those of the README in the root"
    call = [sys.executable, "-m", "nbconvert", "--to", "markdown", "--stdout", "--TemplateExporter.exclude_raw=True", "--log-level", "ERROR", "nbs/index.ipynb"]
    text = subprocess.run(call, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return "<!-- made from nbs/index.ipynb by `make readme`: edit that -->\n\n" + text.replace("](../", "](").replace('src="../', 'src="').replace("<!-- figures/cards.csv -->", table()).strip() + "\n"


def main():
    readme, text = ROOT/"README.md", render()
    if "--check" in sys.argv: sys.exit(0 if readme.exists() and readme.read_text() == text else "README.md is not what nbs/index.ipynb gives: run `make readme`")
    readme.write_text(text)


main()
