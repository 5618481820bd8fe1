"""The default run's executed notebooks as Markdown pages in docs/, for visitors who run nothing; see `make docs`.
What `make reproduce` left in runs/notebooks is read; nothing is run. The pages are written whole or not at all."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
DOCS, EXECUTED = ROOT / "docs", ROOT / "runs" / "notebooks"
ARCHS = ("text", "mlp", "perceiver", "flamingo", "blind")
PAGES = {
    "01_data": "Raw files to records, the split, and the leak ledger",
    "02_encode": "Features of each protein, once",
    **{f"03_train-{arch}": f"Training of the arm `{arch}`" for arch in ARCHS},
    "04_evaluate": "Losses, answers, baselines, intervals",
    "05_figures": "Figures and report",
}
# written by hand
OWN_PAGES = {"score_your_model": "A result card for your own model"}
MOST_MB = 3  # of the pages, without the post


def cleaned(path):
    "An executed notebook without warnings, progress and empty cells"
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                data.pop("text/html", None)
            if "text/html" in data:
                data["text/html"] = re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.S)
    return notebook


def page(name, folder):
    "Write one page and its pictures; the names of the files"
    exporter = MarkdownExporter()
    resources = dict(output_files_dir=f"{name}_files", unique_key=name)
    body, resources = exporter.from_notebook_node(cleaned(EXECUTED / f"{name}.ipynb"), resources)
    places = [p for p in (str(ROOT), str(Path.home())) if p in body and len(p) > 1]
    if places:
        sys.exit(
            f"{name}: its output names {places[0]}, a folder of this machine: mend the notebook"
        )
    (folder / f"{name}.md").write_text(body.strip() + "\n", encoding="utf-8")
    for file, content in resources["outputs"].items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(content)


def state_of_code():
    "The commit that is checked out, and whether files differ from it"
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return commit.stdout.strip() or "unknown commit"


def front(folder):
    "The page that lists the pages"
    figures = json.loads((ROOT / "runs" / "figures" / "cards.json").read_text())["origin"]
    lines = [
        "# The default run, read without running anything",
        "",
        "These pages are the notebooks as `make reproduce` executed them, with their tables and pictures.",
        f"Made on {date.today()} from commit {state_of_code()} by `make docs`; test set `{figures['test_hash']}`.",
        "",
        "| page | what it shows |",
        "| --- | --- |",
        *[f"| [{name}]({name}.md) | {what} |" for name, what in (PAGES | OWN_PAGES).items()],
        "",
        "The report on one page is [report.html](report.html): download it, or open it from a clone.",
        "The post, with the published numbers of a large system beside ours: [post/post.md](post/post.md).",
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main():
    absent = [n for n in PAGES if not (EXECUTED / f"{n}.ipynb").exists()]
    if absent:
        sys.exit(f"{absent[0]}.ipynb is not in runs/notebooks: run `make reproduce` first")
    with tempfile.TemporaryDirectory(dir=ROOT) as d:
        folder = Path(d) / "docs"
        folder.mkdir()
        for name in PAGES:
            page(name, folder)
        shutil.copy(ROOT / "runs" / "report" / "report.html", folder / "report.html")
        for name in OWN_PAGES:
            shutil.copy(DOCS / f"{name}.md", folder / f"{name}.md")
        front(folder)
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6
        if size > MOST_MB:
            sys.exit(f"the pages take {size:.1f} MB, {MOST_MB} are allowed: make pictures smaller")
        if (DOCS / "post").is_dir():  # written by `make blog`, and as large as it is
            shutil.copytree(DOCS / "post", folder / "post")
        shutil.rmtree(DOCS, ignore_errors=True)
        os.replace(folder, DOCS)
    print(f"docs/: {len(PAGES)} pages, {size:.1f} MB")


if __name__ == "__main__":
    main()
