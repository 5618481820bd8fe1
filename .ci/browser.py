"""The post in Chromium: `python .ci/browser.py [--to FOLDER]`, started by `make test-browser`.
At each width nothing sticks out, letters can be read, pictures have a text, nothing is loaded, the console is silent,
and each switch changes the plot. Where there is no Chromium that is said, and the exit code is 0."""

import argparse
import json
import sys
import time
from pathlib import Path

from pages import LEAST, LOOK, UNFOLD, WIDTHS, Browser, find_chromium

POST = Path(__file__).resolve().parent.parent / "docs" / "post" / "post.html"
SWITCHES = ("run", "metric", "task", "bin", "arm")
WAIT = 20  # seconds until the plot is drawn

# pictures without a text for those who cannot see them
UNTOLD = """[...document.querySelectorAll('svg, img')].filter(e => !e.closest('[aria-label]')
  && !(e.alt || e.getAttribute('aria-label') || '').trim()).map(e => e.outerHTML.slice(0, 80))"""
FOREIGN = """performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))"""
DRAWN = "Number(document.getElementById('explorer')?.dataset.drawn || 0)"
# choose what was not chosen: the second option of a switch; what the plot shows before and after
PLOT = "document.querySelector('#explorer .plot svg')?.outerHTML || ''"
TOLD = "document.querySelector('#explorer .told').textContent"
OPTIONS = "[...document.getElementById('choose-%s').options].map(o => o.value)"
CHOOSE = """(() => { const s = document.getElementById('choose-%s'); s.value = %s;
s.dispatchEvent(new Event('change')); return s.value; })()"""


class Listener(Browser):
    "A browser that keeps what the console says"

    def __init__(self, program):
        self.errors = []
        super().__init__(program)
        self.ask("Runtime.enable")
        self.ask("Log.enable")

    def message(self):
        message = super().message()
        params, method = message.get("params", {}), message.get("method")
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        if method == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.errors.append(" ".join(str(a.get("value")) for a in params["args"]))
        if method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        return message


def drawn(browser, times):
    "Whether the plot was drawn so often, after a while"
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        if (browser.run(DRAWN) or 0) >= times:
            return True
        time.sleep(0.05)
    return False


def switches(browser):
    "What is wrong with the switches of the plot"
    if not drawn(browser, 1):
        yield "the plot is not drawn"
        return
    for name in SWITCHES:
        options, before = browser.run(OPTIONS % name), browser.run(PLOT)
        if len(options) < 2:
            yield f"the switch {name} has {len(options)} option"
            continue
        times = browser.run(DRAWN)
        browser.run(CHOOSE % (name, json.dumps(options[1])))
        if not drawn(browser, times + 1):
            yield f"the plot is not drawn anew after {name}"
        elif browser.run(PLOT) == before:
            yield f"the switch {name} does not change the plot"
        elif not browser.run(PLOT).count("<path"):
            yield f"the plot is empty after {name}"
        if name != "arm":  # an arm is to be chosen from those of the first choice
            browser.run(CHOOSE % (name, json.dumps(options[0])))
            drawn(browser, times + 2)


def looked(browser, about):
    "What is wrong with what is seen"
    found = browser.run(LOOK % LEAST)
    least, height = found["least"], found["height"]
    print(f"{about}: {height:,} high, letters from {least:.1f} pixels")
    return found["faults"], height


def check(browser, page, width, folder=None):
    "What is wrong with the post at a width: sentences"
    browser.open(page, width, "light")
    faults = list(switches(browser))
    for state, script in (("as it opens", "0"), ("unfolded", UNFOLD)):
        browser.run(script)
        wrong, height = looked(browser, f"{page.name}, {width} pixels wide, {state}")
        faults += wrong
        if folder:
            browser.photograph(
                folder / f"{page.stem}-{width}-{state.split()[0]}.png", width, height
            )
    faults += [f"a picture without a text: {e}" for e in browser.run(UNTOLD)]
    faults += [f"something is loaded: {name}" for name in browser.run(FOREIGN)]
    return faults + [f"an error in the console: {e}" for e in browser.errors]


def main():
    parser = argparse.ArgumentParser(
        description="Look at the post in Chromium, and use its switches."
    )
    parser.add_argument("page", nargs="?", type=Path, default=POST, help="the post's page")
    parser.add_argument("--to", type=Path, help="folder of screenshots; none are made without it")
    args = parser.parse_args()
    if not args.page.is_file():
        sys.exit(f"no page: {args.page}; `make blog` writes it")
    program = find_chromium()
    if program is None:
        print("browser: not run")
        return 0
    if args.to:
        args.to.mkdir(parents=True, exist_ok=True)
    browser, bad = Listener(program), 0
    try:
        for width in WIDTHS:
            for fault in dict.fromkeys(check(browser, args.page, width, args.to)):
                bad += 1
                print(f"{args.page.name}, {width} pixels wide: {fault}", file=sys.stderr)
    finally:
        browser.close()
    print(f"browser: {bad} faults")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
