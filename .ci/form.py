"""Checks how the code is written: notebooks' cells and outputs, lines, imports, and what is generated from notebooks.
Started by `.ci/test.py`; `python .ci/form.py` runs these checks alone, in seconds."""

import ast
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles

from calls import ROOT, call

BIN = ROOT / ".venv" / "bin"
LINES, CHARACTERS = 25, 1_200  # of an exported cell
MODULE_LINES = 50  # of an exported cell that is a torch module
OUTPUT_BYTES = 100_000  # of one cell
NOTHING_TO_SEE = ("test_", "check_")  # calls that return nothing
MEDIAN, P90 = 60, 95  # characters of a line within a function
WIDEST = 120  # characters of any line of code
# nbdev wraps the list of names at 120 and then puts this before its first line
ALL = "__all__ = "
PRIVATE = re.compile("_[^_]")
HOME = r"(?<![\w./:-])/(?:root|home|tmp|Users|private|var)/\w+"  # paths of somebody's machine


def notebooks(folder="."):
    "Notebooks below nbs/, checkpoints aside"
    found = (ROOT / "nbs" / folder).rglob("*.ipynb")
    return sorted(p for p in found if ".ipynb_checkpoints" not in p.parts)


def source(cell):
    return "".join(cell["source"])


def cells_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def skipped(path):
    "Whether nbdev_test leaves the notebook out: it does in a folder with a file `.notest`"
    return (path.parent / ".notest").exists()


def directive(cell):
    "The first word behind `#|`; empty where there is none"
    first = source(cell).split("\n", 1)[0]
    return first.removeprefix("#|").split()[0] if first.startswith("#|") else ""


def code_of(cell):
    "An exported cell without its directives"
    lines = [line for line in source(cell).splitlines() if not line.startswith("#|")]
    return "\n".join(lines).strip()


def is_torch_module(tree):
    "Whether a cell is one class derived from a torch module"
    bases = [ast.unparse(b) for n in tree.body if isinstance(n, ast.ClassDef) for b in n.bases]
    return any(b.endswith(("Module", "PreTrainedModel", "autograd.Function")) for b in bases)


def too_large(cell):
    "What is wrong with the size of an exported cell"
    code = code_of(cell)
    tree = ast.parse(code)
    if all(isinstance(n, ast.Import | ast.ImportFrom) for n in tree.body):
        return ""
    lines = len(code.splitlines())
    if is_torch_module(tree):
        return f"{lines} lines, {MODULE_LINES} are allowed" if lines > MODULE_LINES else ""
    if lines > LINES or len(code) > CHARACTERS:
        allowed = f"{LINES} lines and {CHARACTERS:,} characters are allowed"
        return f"{lines} lines and {len(code):,} characters, {allowed}"
    return ""


def ends_in_value(cell):
    "Whether an example ends in an expression whose value a reader would want to see"
    text = source(cell)
    if cell["cell_type"] != "code" or directive(cell) or text.rstrip().endswith(";"):
        return False
    tree = ast.parse(re.sub(r"(?m)^\s*[%!].*$", "", text))
    if not tree.body or not isinstance(tree.body[-1], ast.Expr):
        return False
    called = tree.body[-1].value
    name = ast.unparse(called.func) if isinstance(called, ast.Call) else ""
    return not name.startswith(NOTHING_TO_SEE) and not name.endswith(".cleanup")


def form(path):
    "What is wrong with the form of one notebook"
    nb = json.loads(path.read_text(encoding="utf-8"))
    wrong = []
    if nb["metadata"].get("kernelspec", {}).get("name") != "python3":
        wrong.append("kernelspec is not python3: papermill cannot start it")
    outputs = json.dumps([c.get("outputs", []) for c in nb["cells"]])
    places = {str(ROOT), str(Path.home()), sys.prefix} | set(re.findall(HOME, outputs))
    held = sorted(p for p in places if len(p) > 1 and p in outputs)
    wrong += [f"an output holds the path {p}" for p in held]
    if any("skip_exec" in source(c) for c in nb["cells"][:1]):
        wrong.append("its first cell is raw front matter, which a visitor sees")
    is_run = path.parent == ROOT / "nbs" and re.match(r"\d\d[a-z]?_", path.name)
    wrong += form_of_run(path, nb) if is_run else form_of_library(path, nb)
    return "\n".join(f"{path.relative_to(ROOT)}: {w}" for w in wrong)


def unread_parameters(source):
    "Lines of a parameters cell that papermill does not read: it warns, and `--help-notebook` lacks them"
    code = [line for line in source.splitlines() if not line.strip().startswith("#")]
    return [line for line in code if line.count("=") > 1]


def form_of_run(path, nb):
    "What is wrong with a run notebook"
    wrong = []
    tagged = [c for c in nb["cells"] if "parameters" in c["metadata"].get("tags", [])]
    if len(tagged) != 1:
        wrong.append(f"{len(tagged)} cells are tagged `parameters`, not one")
    for line in (line for cell in tagged for line in unread_parameters(source(cell))):
        wrong.append(f"papermill does not read {line!r}: one equals sign a line, examples above it")
    if not skipped(path):
        wrong.append("nbs/.notest is missing: nbdev_test would run it")
    if any(c.get("outputs") for c in nb["cells"]):
        wrong.append("a run notebook holds outputs")
    return wrong


def form_of_library(path, nb):
    "What is wrong with a library notebook"
    if ROOT / "nbs" / "api" not in path.parents:
        return []
    wrong = []
    for i, cell in enumerate(nb["cells"]):
        if directive(cell) == "export" and (error := too_large(cell)):
            wrong.append(f"cell {i}: {error}")
        if ends_in_value(cell) and not cell["outputs"]:
            wrong.append(f"cell {i} ends in a value and stores no output: run `make outputs`")
        size = len(json.dumps(cell.get("outputs", [])))
        if size > OUTPUT_BYTES:
            wrong.append(f"cell {i} stores {size:,} bytes of output, {OUTPUT_BYTES:,} are allowed")
    return wrong


def of_package(node):
    "Whether an import statement is of modules of the package"
    if isinstance(node, ast.ImportFrom):
        return bool(node.level) or (node.module or "").split(".")[0] == "protein_llm"
    return any(alias.name.split(".")[0] == "protein_llm" for alias in node.names)


def private_uses(tree):
    "Names with an underscore that code takes from modules of the package: imported, or as `module._x`"
    statements = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    taken, known = [], {}
    for node in filter(of_package, statements):
        if isinstance(node, ast.ImportFrom):
            taken += [f"imports {a.name}" for a in node.names if PRIVATE.match(a.name)]
            known |= {a.asname or a.name: a.name for a in node.names}
        else:
            known |= {a.asname or a.name: a.name for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and PRIVATE.match(node.attr):
            owner = ast.unparse(node.value)
            name = known.get(owner, owner if owner.startswith("protein_llm.") else "")
            if name.rpartition(".")[2].islower():  # a module, no class
                taken.append(f"uses {owner}.{node.attr}")
    return taken


def private_imports():
    "Names with an underscore that one module takes from another"
    wrong = []
    for path, text in [*modules(), *scripts()]:
        wrong += [f"{path.relative_to(ROOT)} {use}" for use in private_uses(ast.parse(text))]
    return "\n".join(wrong)


def modules():
    "Exported modules and their texts; nbdev's own index is none"
    paths = sorted((ROOT / "protein_llm").rglob("*.py"))
    return [(p, p.read_text(encoding="utf-8")) for p in paths if p.name != "_modidx.py"]


def out_of_order():
    "Modules that import one of their package whose notebook stands behind theirs"
    notebook = {path: re.search(r"File to edit: .*/(\S+)\.ipynb", text) for path, text in modules()}
    wrong = []
    for path, text in modules():
        for node in ast.parse(text).body:
            if not isinstance(node, ast.ImportFrom) or path.name == "__init__.py":
                continue
            parts = (node.module or "").removeprefix("protein_llm.").split(".")
            place = path.parent if node.level == 1 else ROOT / "protein_llm"
            imported = place.joinpath(*parts).with_suffix(".py")
            if imported.parent == path.parent and notebook.get(imported):
                here, there = notebook[path].group(1), notebook[imported].group(1)
                if there > here:
                    wrong.append(
                        f"{path.relative_to(ROOT)} ({here}) imports {imported.stem} ({there})"
                    )
    return "\n".join(wrong)


def scripts():
    "Python files beside the package, and their texts"
    folders = ("bench", "scripts", ".ci", "launch")
    paths = sorted(p for folder in folders for p in (ROOT / folder).glob("*.py"))
    return [(p, p.read_text(encoding="utf-8")) for p in [*paths, ROOT / "setup.py"]]


def texts_of_code():
    "Place and text of all Python: modules, docstrings included, scripts, and the code cells of notebooks"
    for path, text in [*modules(), *scripts()]:
        yield path.relative_to(ROOT), text
    for path in notebooks():
        for i, cell in enumerate(cells_of(path)):
            if cell["cell_type"] == "code":
                yield f"{path.relative_to(ROOT)}, cell {i}", source(cell)


def too_wide():
    "Lines of code that are too wide; a module's docstring is its notebook's subtitle"
    wrong = []
    for place, text in texts_of_code():
        for number, line in enumerate(text.splitlines(), 1):
            width = len(line.removeprefix(ALL))
            if width > WIDEST:
                found = f"{width} characters, {WIDEST} are allowed: {line[:60]}"
                wrong.append(f"{place}:{number}: {found}")
    return "\n".join(wrong)


def versions():
    "Where another version is named than that of the newest numbered release of the changelog"
    named = {
        "CHANGELOG.md": r"(?m)^## (\d+\.\d+\.\d+)$",
        "settings.ini": r"(?m)^version = (.+)$",
        "protein_llm/__init__.py": r'(?m)^__version__ = "(.+)"$',
        "CITATION.cff": r"(?m)^version: (.+)$",
        ".zenodo.json": r'(?m)^  "version": "(.+)",$',
    }
    found = {}
    for name, pattern in named.items():
        hit = re.search(pattern, (ROOT / name).read_text(encoding="utf-8"))
        found[name] = hit.group(1) if hit else "none"
    newest = found["CHANGELOG.md"]
    wrong = {name: version for name, version in found.items() if version != newest}
    return "\n".join(f"{name}: {v}, CHANGELOG.md: {newest}" for name, v in wrong.items())


def widths():
    "Whether lines within functions are as short as promised"
    lengths = []
    for _, text in modules():
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                body = lines[node.body[0].lineno - 1 : node.end_lineno]
                lengths += [len(line) for line in body if line.strip()]
    middle, high = median(lengths), quantiles(lengths, n=10)[-1]
    if middle > MEDIAN or high > P90:
        return (
            f"lines within functions: median {middle:.0f}, 90 % {high:.0f}; {MEDIAN}, {P90} allowed"
        )
    return ""


def differs(command, folders):
    "Run an nbdev command on a copy of the project; the error names the files that it changes"

    def files(base):
        found = (p for f in folders for p in (base / f).rglob("*"))
        wanted = (p for p in found if p.suffix in (".py", ".ipynb") and p.is_file())
        return {
            p.relative_to(base): p.read_bytes()
            for p in wanted
            if ".ipynb_checkpoints" not in p.parts
        }

    with tempfile.TemporaryDirectory() as d:
        copy = Path(d) / "project"
        copy.mkdir()
        for name in ("settings.ini", "setup.py"):
            shutil.copy(ROOT / name, copy / name)
        ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        for name in ("nbs", "protein_llm"):
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        code, out = call([BIN / command], cwd=copy, PYTHONPATH=str(copy))
        if code:
            return out
        made, here = files(copy), files(ROOT)
    changed = sorted(str(n) for n in made.keys() | here.keys() if made.get(n) != here.get(n))
    return f"{command} changes {', '.join(changed)}: run it and commit it" if changed else ""


def checked(*command):
    "Output of a command that fails; empty where it succeeds"
    code, out = call(command)
    return out if code else ""


def kernel():
    "The kernel that papermill and JupyterLab start must be the one of .venv"
    code, out = call([BIN / "jupyter", "kernelspec", "list", "--json"])
    if code:
        return out
    specs = json.loads(out[out.index("{") :])["kernelspecs"]
    found = specs.get("python3", {}).get("resource_dir", "none")
    if Path(found).resolve().is_relative_to((ROOT / ".venv").resolve()):
        return ""
    return f"the kernel python3 is {found}, not the one of .venv"


def checks():
    "Each check's name and what it found wrong"
    code = ("nbs", "bench", "scripts", ".ci", "setup.py")
    yield "nbdev_export changes nothing", differs("nbdev_export", ["protein_llm"])
    yield "nbdev_clean changes nothing", differs("nbdev_clean", ["nbs"])
    yield (
        "README.md and RESULTS.md are what their notebooks give",
        checked(BIN / "python", "scripts/readme.py", "--check"),
    )
    yield (
        "every command of README and RESULTS is listed to be tried",
        checked(BIN / "python", ".ci/readme_commands.py", "--check"),
    )
    yield "the notebooks' form", "\n".join(filter(None, map(form, notebooks())))
    yield "ruff check", checked(BIN / "ruff", "check", "--quiet", *code)
    yield "ruff format", checked(BIN / "ruff", "format", "--check", "--quiet", *code)
    yield "imports go one way", checked(BIN / "lint-imports", "--no-logo", "--no-cache")
    yield "notebooks stand in the order of their imports", out_of_order()
    yield "no private name of another module is used", private_imports()
    yield "no line of code is too wide", too_wide()
    yield "every file names the newest release's version", versions()
    yield "short lines", widths()
    yield "the kernel is .venv's", kernel()


if __name__ == "__main__":
    failed = 0
    for name, error in checks():
        print(f"{'FAILED' if error else 'ok    '} {name}\n{error}".rstrip(), flush=True)
        failed += bool(error)
    sys.exit(1 if failed else 0)
