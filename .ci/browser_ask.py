"""Asking in Chromium: `python .ci/browser_ask.py [--to FOLDER]`, started by `make test-browser`.
The page of `serve` is filled in as by a user, at each width: two proteins are pasted, a file is sent, nucleotides are
given by mistake. The panel is used in JupyterLab, where the answer must be seen to grow before its card. Nothing
sticks out, letters can be read, the console is silent. Where there is no Chromium that is said, and the exit code
is 0."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
from browser import Listener
from calls import ROOT
from pages import LEAST, LOOK, UNFOLD, WIDTHS, find_chromium

from protein_llm.apps.evidence import load_arm
from protein_llm.apps.serve import ServeLimits, serving

FIVE = ROOT / "assets" / "five_proteins.fasta"
DNA = "ATGAAAACGGCATATATCGCAAAACAAGGCTTTATCTGC"
WAIT = 120  # seconds until an answer is there
FILL = """(text => { document.querySelector('textarea').value = text; })(%r)"""
SEND = "document.querySelector('form').requestSubmit()"
TEXT = "document.body.innerText"
PANEL = """from protein_llm.apps.evidence import load_arm
from protein_llm.apps.panel import AskPanel

AskPanel(load_arm("tiny_mlp")).show()"""
# The panel's text is put where a user would type it, and its button pressed.
PRESS = """(text => { const area = document.querySelector('.widget-textarea textarea'); area.value = text;
for (const kind of ['input', 'change']) area.dispatchEvent(new Event(kind, {bubbles: true}));
setTimeout(() => [...document.querySelectorAll('.jupyter-button')].find(b => b.innerText.trim() == 'Ask').click(), 500);
})(%r)"""
# Every text that the answer's place shows is kept, so that a test can see it grow.
WATCH = """(() => { const place = document.querySelector('.widget-html-content'); window.seen = [];
new MutationObserver(() => window.seen.push(place.innerText)).observe(place, {childList: true, subtree: true}); })()"""
FRAME = "document.querySelector('.widget-html-content iframe')?.srcdoc || ''"
BROAD = "document.querySelector('.widget-html-content').getBoundingClientRect().width"
WIDER = """[...document.querySelectorAll('.jp-OutputArea-output')].map(e => e.scrollWidth - e.clientWidth)"""


def two_proteins():
    "The first two records of the shipped five"
    return ">" + ">".join(FIVE.read_text().split(">")[1:3])


def until(browser, script, seconds=WAIT):
    "The value of a script as soon as it is true; what it was last after a while"
    end, value = time.monotonic() + seconds, None
    while not value and time.monotonic() < end:
        time.sleep(0.1)
        try:
            value = browser.run(script)
        except RuntimeError as e:  # the page is just being left
            if "ended" in str(e):
                raise
    return value


def give_file(browser, path):
    "Choose a file in the form"
    root = browser.ask("DOM.getDocument")["root"]["nodeId"]
    node = browser.ask("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
    browser.ask("DOM.setFileInputFiles", files=[str(path)], nodeId=node)


def asked(browser, address, width, words, text="", file=None):
    "Fill in the form and wait for a page with these words; what is missing"
    browser.show(address, width, "light")
    browser.run(FILL % text)
    if file:
        give_file(browser, file)
    browser.run(SEND)
    until(browser, f"location.pathname == '/ask' && document.readyState == 'complete' && {TEXT}")
    shown = browser.run(TEXT)
    return [f"{word!r} is not on the page" for word in words if word not in shown]


def looked(browser, about, picture=None):
    "What is wrong with what is seen, as it opens and unfolded"
    faults = []
    for script in ("0", UNFOLD):
        browser.run(script)
        found = browser.run(LOOK % LEAST)
        faults += found["faults"]
    print(f"{about}: {found['height']:,} high, letters from {found['least']:.1f} pixels")
    if picture:
        browser.photograph(picture[0], picture[1], found["height"])
    return faults


def check_page(browser, address, width, folder):
    "What is wrong with the page of `serve` at a width"

    def look(name):
        picture = (folder / f"serve-{name}-{width}.png", width) if folder else None
        return looked(browser, f"serve, {width} pixels wide, {name}", picture)

    browser.show(address, width, "light")
    faults = look("form")
    two = [line[1:].split()[0] for line in two_proteins().splitlines() if line[0] == ">"]
    words = [*two, "Asked about 2 proteins", "Where the bridge looked", "How far to trust"]
    faults += asked(browser, address, width, words, two_proteins()) + look("two")
    faults += asked(browser, address, width, ["Asked about 5 proteins"], file=FIVE) + look("file")
    words = ["Not asked", "nucleotides"]
    return faults + asked(browser, address, width, words, DNA) + look("nucleotides")


@contextmanager
def jupyter(folder):
    "JupyterLab with the panel in a notebook of its own; its address"
    cell = nbformat.v4.new_code_cell(PANEL)
    kernel = dict(kernelspec=dict(name="python3", display_name="python3", language="python"))
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), folder / "panel.ipynb")
    own = {f"JUPYTER_{k}_DIR": str(folder / k) for k in ("CONFIG", "DATA", "RUNTIME")}
    env = os.environ | own | dict(JUPYTER_PREFER_ENV_PATH="1", PYTHONPATH=str(ROOT))
    call = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--port=0"]
    call += ["--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    call += ["--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None"]
    with (
        open(folder / "log", "w") as log,
        subprocess.Popen(call, env=env, stdout=log, stderr=log) as server,
    ):
        try:
            yield wait_for_address(folder, server)
        finally:
            server.terminate()


def wait_for_address(folder, server):
    "Where JupyterLab listens. Raises `RuntimeError` where it does not"
    end = time.monotonic() + WAIT
    while time.monotonic() < end and server.poll() is None:
        lines = [x for x in (folder / "log").read_text().split() if x.startswith("http://127.")]
        if lines:
            return lines[0].split("/lab")[0]
        time.sleep(0.2)
    raise RuntimeError((folder / "log").read_text()[-2_000:])


def check_panel(browser, address, width, folder):
    "What is wrong with the panel in JupyterLab at a width"
    browser.show(f"{address}/lab/tree/panel.ipynb?reset", width, "light")
    until(browser, "window.jupyterapp?.commands.hasCommand('notebook:run-all-cells')")
    ready = "document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden)')?.innerText.includes('Idle')"
    until(browser, f"document.querySelector('.jp-Cell') && ({ready} || true)")
    time.sleep(3)  # until the kernel is there
    if width < 600:  # as on a telephone: the list of files would hide the notebook
        browser.run("window.jupyterapp.commands.execute('application:toggle-left-area'); 0")
    browser.run("window.jupyterapp.commands.execute('notebook:run-all-cells'); 0")
    if not until(browser, "document.querySelector('.widget-html-content') != null"):
        return ["the panel does not appear"]
    browser.run(WATCH)
    browser.run(PRESS % f"{two_proteins()}>gene\n{DNA}\n")
    page = until(browser, FRAME)
    faults = [
        f"{w!r} is not on the card"
        for w in ("Where the bridge looked", "nucleotides")
        if w not in page
    ]
    grown = [text for text in browser.run("window.seen") if text.rstrip().endswith("...")]
    if len({*grown}) < 4:
        faults.append(f"the answer is not seen to grow: {len({*grown})} texts")
    wide = [n for n in browser.run(WIDER) if n > 0]
    if browser.run(BROAD) < 200:
        faults.append(f"the panel can hardly be seen: {browser.run(BROAD):.0f} pixels wide")
    if folder:
        browser.photograph(folder / f"panel-{width}.png", width, 900)
    print(f"panel, {width} pixels wide: {len({*grown})} texts before the card")
    return faults + [f"the panel is {n} pixels wider than its place" for n in wide]


def all_faults(browser, folder):
    "What is wrong, with the width"
    with serving(load_arm("tiny_mlp"), limits=ServeLimits(rate=1_000)) as address:
        for width in WIDTHS:
            yield from ((width, f) for f in check_page(browser, address, width, folder))
    yield from (("any", f"an error in the console: {e}") for e in browser.errors)
    with tempfile.TemporaryDirectory() as d, jupyter(Path(d)) as address:
        for width in WIDTHS:
            yield from ((width, f) for f in check_panel(browser, address, width, folder))


def main():
    parser = argparse.ArgumentParser(description="Ask proteins in Chromium, as a user would.")
    parser.add_argument("--to", type=Path, help="folder of screenshots; none are made without it")
    args = parser.parse_args()
    program = find_chromium()
    if program is None:
        print("browser: not run")
        return 0
    if args.to:
        args.to.mkdir(parents=True, exist_ok=True)
    browser, bad = Listener(program), 0
    try:
        for width, fault in dict.fromkeys(all_faults(browser, args.to)):
            bad += 1
            print(f"{width} pixels wide: {fault}", file=sys.stderr)
    finally:
        browser.close()
    print(f"browser: {bad} faults")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
