"""Runs library notebooks and stores what their visible examples show; started by `make outputs`.
Without arguments all below nbs/api, else those named: `python scripts/outputs.py nbs/api/data/06_split.ipynb`."""

import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 900  # seconds that one cell may take
SHOWN = ("execute_result", "display_data", "stream")  # kinds of output that are kept


def flags():
    "Words that keep a cell from being run: those of nbdev_test"
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini")
    return parser["DEFAULT"]["tst_flags"].split()


def directives(source):
    "The words behind `#|` at a cell's head"
    lines = [line[2:].split() for line in source.splitlines() if line.startswith("#|")]
    return {word.rstrip(":") for line in lines for word in line}


def runs(source):
    "Whether a cell is run: not one with a flag of nbdev_test, nor the one that exports the notebook"
    exports = "nbdev_export()" in source
    return not (directives(source) & set(flags()) or exports or "eval false" in source)


def is_example(cell):
    "Whether visitors see a code cell as an example"
    hidden = {"hide", "export", "exporti", "default_exp"} & directives(cell.source)
    return cell.cell_type == "code" and not hidden


def cleaned(outputs):
    "What is worth storing: no warnings, no numbers of execution, no metadata"
    kept = []
    for output in outputs:
        if output.output_type not in SHOWN or output.get("name") == "stderr":
            continue
        if "execution_count" in output:
            output.execution_count = None
        if "metadata" in output:
            output.metadata = {}
        if "data" in output and "text/html" in output.data:
            output.data["text/html"] = re.sub(
                r"<style.*?</style>\s*", "", output.data["text/html"], flags=re.S
            )
        kept.append(output)
    return kept


def store(path):
    "Run a notebook in a kernel of its own, and store the outputs of its examples"
    began = time.time()
    notebook = nbformat.read(path, as_version=4)
    run = nbformat.from_dict(notebook)
    for cell in run.cells:
        if cell.cell_type == "code" and not runs(cell.source):
            cell.source = ""
    client = NotebookClient(
        run,
        timeout=TIMEOUT,
        kernel_name="python3",
        resources=dict(metadata=dict(path=str(path.parent))),
    )
    try:
        client.execute()
    except CellExecutionError as e:
        return path, str(e)[-3000:], time.time() - began
    for cell, done in zip(notebook.cells, run.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs = cleaned(done.outputs) if is_example(cell) else []
            cell.execution_count = None
    nbformat.write(notebook, path)
    return path, "", time.time() - began


def main():
    os.environ |= dict(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", JUPYTER_PREFER_ENV_PATH="1")
    found = [
        p for p in (ROOT / "nbs" / "api").rglob("*.ipynb") if "checkpoint" not in str(p.parent)
    ]
    paths = [Path(a).resolve() for a in sys.argv[1:]] or sorted(found)
    failed = 0
    with ThreadPoolExecutor(2) as pool:
        for path, error, seconds in pool.map(store, paths):
            name = path.relative_to(ROOT).as_posix()
            print(f"{'FAILED' if error else 'stored'} {name}  {seconds:.0f} s", flush=True)
            if error:
                print(error, flush=True)
                failed += 1
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
