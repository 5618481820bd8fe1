"""The post from what is committed, into docs/post; started by `make blog`. Nothing is trained or measured.
With --check nothing is written: exit code 1 says that docs/post is not what the committed tables give."""

import filecmp
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from protein_llm.reporting.post import write_post  # noqa: E402

POST = ROOT / "docs" / "post"
MOST_MB = 6  # of the page


def check():
    "Leave with what differs; nothing where the post is up to date"
    with tempfile.TemporaryDirectory() as d:
        new = write_post(Path(d) / "post").parent
        names = {p.name for folder in (new, POST) for p in folder.glob("*")}
        _, differing, absent = filecmp.cmpfiles(new, POST, sorted(names), shallow=False)
    if differing or absent:
        sys.exit(f"docs/post: {', '.join(differing + absent)} are not what `make blog` gives")


def main():
    began = time.time()
    if "--check" in sys.argv:
        return check()
    page = write_post(POST)
    size = page.stat().st_size / 1e6
    if size > MOST_MB:
        sys.exit(f"{page} takes {size:.1f} MB, {MOST_MB} are allowed")
    print(f"{page.relative_to(ROOT)}: {size:.1f} MB, {time.time() - began:.0f} s")


main()
