"""Looks at HTML pages in Chromium as on a screen and on a telephone: `python .ci/pages.py [PAGE...] [--to FOLDER]`.
Ends with code 1 where a page is wider than its window or shows letters of less than 9 pixels; screenshots go to the
folder. Where there is no Chromium nothing is checked, and that is said. Chromium is told what to do through a pipe,
in the words of the DevTools protocol."""

import argparse
import base64
import fcntl
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SMOKE = Path(__file__).resolve().parent.parent / "runs" / "smoke" / "report" / "report.html"
WIDTHS = (1280, 390)  # of a window, CSS pixels
LEAST = 9  # pixels that letters have at least
HEIGHT = 900
TALLEST = 16_000  # pixels of a screenshot

# What is seen on the page: letters and their size, those in figures after scaling; and what sticks out.
LOOK = """(least => {
const seen = [], wide = [], width = document.documentElement.clientWidth;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  const parent = node.parentElement, range = document.createRange();
  if (!node.data.trim() || parent.closest("style,title,script") || !parent.checkVisibility()) continue;
  range.selectNodeContents(node);
  const box = range.getBoundingClientRect();
  if (!box.width || getComputedStyle(parent).visibility == "hidden") continue;
  const m = parent.closest("svg") ? parent.getScreenCTM() : null;
  const scale = m ? Math.sqrt(Math.abs(m.a * m.d - m.b * m.c)) : 1;
  const size = parseFloat(getComputedStyle(parent).fontSize) * scale;
  seen.push(size);
  if (size < least) wide.push(`${size.toFixed(1)} pixels: ${node.data.trim().slice(0, 60)}`);
}
const over = document.documentElement.scrollWidth - width;
const scrolls = e => { for (let p = e.parentElement; p; p = p.parentElement)
  if (["auto", "scroll", "hidden"].includes(getComputedStyle(p).overflowX)) return true; return false; };
if (over > 0) {
  const past = e => e.getBoundingClientRect().right > width + 0.5 && !scrolls(e);
  const out = [...document.body.querySelectorAll("*")].filter(past).map(e => e.outerHTML.slice(0, 80));
  wide.push(`${over} pixels wider than the window: ${out.at(-1) || "the document"}`);
}
return {faults: wide, least: Math.min(...seen), texts: seen.length, height: document.documentElement.scrollHeight};
})(%d)"""
UNFOLD = "document.querySelectorAll('details').forEach(d => d.open = true)"


def find_chromium():
    "The program, or nothing where there is none"
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    "Chromium without a window; it reads from file 3 and writes to file 4, one message up to each zero byte"

    def __init__(self, program):
        self.profile, self.count, self.buffer = tempfile.mkdtemp(prefix="pages-"), 0, b""
        (ours_in, theirs_out), (theirs_in, ours_out) = os.pipe(), os.pipe()
        self.reader, self.writer = os.fdopen(ours_in, "rb", 0), os.fdopen(ours_out, "wb", 0)
        high_in, high_out = (fcntl.fcntl(f, fcntl.F_DUPFD, 10) for f in (theirs_in, theirs_out))
        quiet = (os.POSIX_SPAWN_OPEN, os.devnull, os.O_RDWR, 0)
        call = [
            program,
            "--headless=new",
            "--remote-debugging-pipe",
            "--disable-gpu",
            "--hide-scrollbars",
        ]
        call += [f"--user-data-dir={self.profile}", "--no-first-run", "--disable-dev-shm-usage"]
        if os.getuid() == 0:
            call.append("--no-sandbox")  # Chromium does not run as root without it
        self.pid = os.posix_spawn(
            program,
            call,
            os.environ,
            file_actions=[
                (quiet[0], 1, *quiet[1:]),
                (quiet[0], 2, *quiet[1:]),
                (os.POSIX_SPAWN_DUP2, high_in, 3),
                (os.POSIX_SPAWN_DUP2, high_out, 4),
            ],
            setsid=True,
        )
        for end in (theirs_in, theirs_out, high_in, high_out):
            os.close(end)
        self.session = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.ask("Page.enable")

    def message(self):
        "The next message. Raises `RuntimeError` when Chromium has ended"
        while b"\0" not in self.buffer:
            part = self.reader.read(1 << 20)
            if not part:
                raise RuntimeError("Chromium ended before it answered")
            self.buffer += part
        whole, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(whole)

    def ask(self, method, **params):
        "Have something done, and wait for what comes of it"
        self.count += 1
        call = dict(id=self.count, method=method, params=params)
        if self.session:
            call["sessionId"] = self.session
        self.writer.write(json.dumps(call).encode() + b"\0")
        while (answer := self.message()).get("id") != self.count:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def open(self, page, width, scheme):
        "Show a file in a window of some width"
        self.show(Path(page).resolve().as_uri(), width, scheme)

    def show(self, address, width, scheme):
        "Show a page in a window of some width"
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=HEIGHT,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.ask(
            "Emulation.setEmulatedMedia", features=[dict(name="prefers-color-scheme", value=scheme)]
        )
        self.ask("Page.navigate", url=address)
        while self.message().get("method") != "Page.loadEventFired":
            pass

    def run(self, script):
        "The value of a script in the page"
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get(
            "value"
        )

    def photograph(self, file, width, height):
        "The whole page as a picture"
        clip = dict(x=0, y=0, width=width, height=min(height, TALLEST), scale=1)
        shot = self.ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        try:
            os.killpg(self.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        os.waitpid(self.pid, 0)
        shutil.rmtree(self.profile, ignore_errors=True)


def check_page(browser, page, folder=None):
    "What is wrong with a page: a list of sentences. It is looked at as it opens, and with everything unfolded"
    faults = []
    for width in WIDTHS:
        browser.open(page, width, "light")
        for state, script in (("as it opens", "0"), ("unfolded", UNFOLD)):
            browser.run(script)
            found = browser.run(LOOK % LEAST)
            about = f"{width} pixels wide, {state}"
            print(
                f"{page.name}, {about}: {found['height']:,} high, letters from {found['least']:.1f} pixels"
            )
            faults += [f"{about}: {f}" for f in found["faults"]]
            if folder:
                name = f"{page.stem}-{width}-{state.replace(' ', '_')}.png"
                browser.photograph(folder / name, width, found["height"])
        if folder:
            browser.open(page, width, "dark")
            height = browser.run(LOOK % LEAST)["height"]
            browser.photograph(folder / f"{page.stem}-{width}-dark.png", width, height)
    return faults


def main():
    parser = argparse.ArgumentParser(
        description="Look at HTML pages in Chromium: nothing sticks out, no letters below 9 pixels."
    )
    parser.add_argument(
        "pages",
        nargs="*",
        type=Path,
        default=[SMOKE],
        help="HTML files; the smoke run's report without any",
    )
    parser.add_argument(
        "--to", type=Path, help="folder of the screenshots; none are made without it"
    )
    args = parser.parse_args()
    absent = [page for page in args.pages if not page.is_file()]
    if absent:
        print(f"no page: {absent[0]}", file=sys.stderr)
        return 1
    program = find_chromium()
    if program is None:
        print("not checked: no Chromium found")
        return 0
    if args.to:
        args.to.mkdir(parents=True, exist_ok=True)
    browser, bad = Browser(program), 0
    try:
        for page in args.pages:
            for fault in dict.fromkeys(check_page(browser, page, args.to)):
                bad += 1
                print(f"{page}: {fault}", file=sys.stderr)
    finally:
        browser.close()
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
