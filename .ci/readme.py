"README.md from nbs/index.ipynb. With --check nothing is written: exit code 1 says that they differ."
import subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def render():
    "The notebook as Markdown; its links start in nbs/, those of the README in the root"
    call = [sys.executable, "-m", "nbconvert", "--to", "markdown", "--stdout", "--TemplateExporter.exclude_raw=True", "--log-level", "ERROR", "nbs/index.ipynb"]
    text = subprocess.run(call, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return "<!-- made from nbs/index.ipynb by `make readme`: edit that -->\n\n" + text.replace("](../", "](").replace('src="../', 'src="').strip() + "\n"


def main():
    readme, text = ROOT/"README.md", render()
    if "--check" in sys.argv: sys.exit(0 if readme.exists() and readme.read_text() == text else "README.md is not what nbs/index.ipynb gives: run `make readme`")
    readme.write_text(text)


main()
