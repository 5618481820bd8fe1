"""Runs every command of README.md and RESULTS.md, each at smoke size.
A command that is not known here fails the check, so that none is ever printed untried. What needs a hub, a GPU, eight
of them or twenty minutes is tried as far as it goes without. Started by `.ci/test.py` after the smoke runs."""

import json
import random
import re
import shlex
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from calls import ROOT, call

HERE = "runs/smoke/readme"  # where the files of the examples lie, and what the commands write
LIMIT = 300  # seconds
SMALL = "n_test_clusters=20 n_valid_clusters=5"
OWN = "steps=2"
# frequencies of the residues in proteins, in percent (Swiss-Prot, rounded)
RESIDUES = dict(
    A=8.3,
    R=5.5,
    N=4.1,
    D=5.5,
    C=1.4,
    Q=3.9,
    E=6.7,
    G=7.1,
    H=2.3,
    I=5.9,
    L=9.7,
    K=5.8,
    M=2.4,
    F=3.9,
    P=4.7,
    S=6.6,
    T=5.3,
    W=1.1,
    Y=2.9,
    V=6.9,
)


@dataclass(frozen=True)
class Try:
    "How a command of README is tried"

    run: str  # What is run in its place
    why: str  # Why not the command as it stands
    words: str = ""  # What the output must hold
    codes: tuple = (0,)  # Exit codes that are right


def there(command):
    return f"cd {HERE} && ../../../{command}"


def to_here(command):
    return command.replace("runs/notebooks/", f"{HERE}/")


QWEN = (
    ".venv/bin/papermill nbs/03_train.ipynb runs/notebooks/qwen.ipynb "
    "-p preset qwen3_8b -p arch flamingo -p changes shard=full"
)
PIN = (
    ".venv/bin/protein-llm pin "
    "mol_instructions swissprot protein_lm swissprot_clap prot_describe protein2text_qa"
)
ASK = (
    '.venv/bin/protein-llm ask assets/five_proteins.fasta --question "Where in the cell is this protein found?" '
    "--model tiny_mlp --out answers.html"
)
TRIES = {
    "make setup": Try("make -n setup", "every other command does it first", "setup.sh"),
    "make reproduce": Try("make -n reproduce", "20 minutes", "reproduce.py"),
    "make test": Try("make -n test", "it is what runs here", "test.py"),
    "make readme": Try("make -n readme", "it writes into the repository", "readme.py"),
    "make outputs": Try("make -n outputs", "it writes into the repository", "outputs.py"),
    "make blog": Try("make -n blog", "it writes into the repository", "blog.py"),
    "make test-browser": Try("make -o setup test-browser", "", "browser: "),
    "make docs": Try("make -n docs", "it needs a whole run", "docs.py"),
    "make smollm2": Try(
        "make -n smollm2", "half an hour, and it writes into figures/", "smollm2.py"
    ),
    "make downstream": Try(
        "make -n downstream", "minutes, and it writes into figures/", "reproduce.py"
    ),
    "make downstream-more": Try(
        "make -n downstream-more", "minutes, and it writes into figures/", "reproduce.py"
    ),
    "make levers": Try("make -n levers", "minutes, and it writes into figures/", "reproduce.py"),
    "make smollm2-tasks": Try(
        "make -n smollm2-tasks", "half an hour, and it writes into figures/", "smollm2_tasks.py"
    ),
    "make grpo": Try("make -n grpo", "minutes, and it writes into figures/", "reproduce.py"),
    "make experiments": Try("make -n experiments", "hours", "reproduce.py"),
    "make grid": Try("make -n grid", "hours, and it writes into figures/", "reproduce.py"),
    "make grid groups=seeds": Try("make -n grid groups=seeds", "half an hour", "seeds"),
    "make grid groups=parts": Try("make -n grid groups=parts", "an hour", "parts"),
    "make grid groups=ladder jobs=2": Try("make -n grid groups=ladder jobs=2", "hours", "ladder"),
    "make grid groups=waterfall": Try("make -n grid groups=waterfall", "hours", "waterfall"),
    "make search": Try("make -n search", "an hour, and it writes into figures/", "reproduce.py"),
    "make help": Try("make help", "", "make setup"),
    "make lab": Try("make -o setup lab args=--version", "it does not end by itself"),
    'make lab args="--port 8899"': Try(
        'make -o setup lab args="--port 8899 --help"', "it does not end by itself", "--allow-root"
    ),
    '.venv/bin/nbdev_test --flags "slow npm"': Try(
        '.venv/bin/nbdev_test --flags "slow npm" --help', "minutes, and npm", "flags"
    ),
    ".venv/bin/protein-llm audit predictions.jsonl --train train.fasta": Try(
        there(".venv/bin/protein-llm audit predictions.jsonl --train train.fasta --draws 50"),
        "with files of our own, few draws",
        "card.html",
        (0, 3),
    ),
    ".venv/bin/protein-llm benchmark runs/benchmark": Try(
        ".venv/bin/protein-llm benchmark --help", "own_model.py tries it", "--push"
    ),
    ".venv/bin/protein-llm predict runs/benchmark/audit/test.jsonl --llm tiny_lm --out runs/tiny_lm.jsonl": Try(
        ".venv/bin/protein-llm predict --help", "own_model.py tries it", "--llm"
    ),
    ".venv/bin/protein-llm share runs/NAME": Try(
        '.venv/bin/protein-llm share "$(dirname "$(ls -t runs/tiny-mlp-*/trained.json | head -n 1)")"',
        "the run of the smoke tests",
        "nothing was sent",
    ),
    "make bench-env": Try("make -n bench-env", "gigabytes", "bench/requirements.txt"),
    ".venv/bin/protein-llm plan --preset qwen3_8b --arch mlp --gpus 8 --gpu h100": Try(
        ".venv/bin/protein-llm plan --preset qwen3_8b --arch mlp --gpus 8 --gpu h100",
        "",
        "largest micro-batch",
    ),
    ASK: Try(
        f"{ASK.rpartition(' ')[0]} {HERE}/answers.html",
        "it writes elsewhere",
        "5 answers",
    ),
    ".venv/bin/protein-llm serve --model tiny_mlp": Try(
        ".venv/bin/protein-llm serve --help", "it does not end by itself", "Ctrl-C"
    ),
    ".venv/bin/protein-llm train --fields": Try(
        ".venv/bin/protein-llm train --fields", "", "lora_r=8"
    ),
    ".venv/bin/protein-llm inputs": Try(".venv/bin/protein-llm inputs", "", "protein2text_qa"),
    ".venv/bin/protein-llm fetch demo": Try(".venv/bin/protein-llm fetch demo", "", "demo: "),
    ".venv/bin/protein-llm verify demo": Try(".venv/bin/protein-llm verify demo", "", "demo: "),
    ".venv/bin/protein-llm runs": Try(".venv/bin/protein-llm runs", "", "tiny-mlp-"),
    ".venv/bin/hf auth login": Try(".venv/bin/hf auth login --help", "a hub"),
    ".venv/bin/hf download Qwen/Qwen3-8B": Try(
        ".venv/bin/hf download Qwen/Qwen3-8B --help", "a hub"
    ),
    QWEN: Try(
        to_here(QWEN),
        "eight GPUs and a hub: it must name the command that fetches the weights",
        "hf download Qwen/Qwen3-8B",
        (1,),
    ),
    "launch/gpu_8.sh --preset qwen3_8b --arch flamingo shard=full": Try(
        "PYTHON=echo launch/gpu_8.sh --preset qwen3_8b --arch flamingo shard=full",
        "eight GPUs",
        "--preset qwen3_8b --arch flamingo shard=full",
    ),
    PIN: Try(
        PIN.replace(" pin ", " inputs "),
        "a hub",
        "protein2text_qa",
    ),
    ".venv/bin/uv pip install torch==2.11.0 --index-url ...": Try(
        ".venv/bin/uv pip install torch==2.11.0 --help", "it changes the environment", "--index-url"
    ),
    ".venv/bin/papermill nbs/01_data.ipynb runs/notebooks/reference.ipynb -p changes recipe=reference": Try(
        to_here(
            ".venv/bin/papermill nbs/01_data.ipynb runs/notebooks/reference.ipynb "
            f"-p n_proteins 300 -p changes 'recipe=reference {SMALL}'"
        ),
        "smoke size",
    ),
    ".venv/bin/protein-llm ledger --train train.fasta --test test.fasta": Try(
        there(".venv/bin/protein-llm ledger --train train.fasta --test test.fasta"),
        "with files of our own",
        "",
        (0, 3),
    ),
    ".venv/bin/protein-llm train --arch mlp manifest=mine": Try(
        f".venv/bin/protein-llm train --arch mlp manifest={HERE}/mine.json {OWN}",
        "smoke size, a manifest elsewhere",
    ),
    ".venv/bin/protein-llm train --arch blind manifest=mine": Try(
        ".venv/bin/protein-llm train --arch blind --help", "as the arm above, whose run is tried"
    ),
    ".venv/bin/protein-llm evaluate manifest=mine": Try(
        f".venv/bin/protein-llm evaluate manifest={HERE}/mine.json {OWN}",
        "no arm `blind` was trained: it must say so",
        "blind",
        (1,),
    ),
    ".venv/bin/papermill nbs/03_train.ipynb runs/notebooks/mine.ipynb --log-output -p manifest mine -p arch mlp": Try(
        to_here(
            ".venv/bin/papermill nbs/03_train.ipynb runs/notebooks/mine.ipynb --log-output "
            f"-p manifest {HERE}/mine.json -p arch mlp -p {OWN.replace('=', ' ')}"
        ),
        "smoke size, a manifest elsewhere",
    ),
}


def blocks(text, language):
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", text)


def commands(text):
    "Commands of a page: lines of its shell blocks without comments, and code in a sentence that starts like one"
    lines = [
        re.sub(r"\s+# .*", "", line).strip()
        for block in blocks(text, "sh")
        for line in block.splitlines()
    ]
    sentences = re.sub(r"(?ms)^```.*?^```", "", text)
    inline = re.findall(r"`((?:\.venv/bin/|launch/)[^`\s]+\s[^`]+|make [^`]+)`", sentences)
    return list(dict.fromkeys(c for c in lines + inline if c))


def protein(rng):
    return "M" + "".join(
        rng.choices(list(RESIDUES), list(RESIDUES.values()), k=rng.randint(60, 120))
    )


def fasta(path, proteins):
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in proteins.items()))


def write_files(text):
    "The files that the commands name: made-up proteins, and the manifest that README shows, with its folder put in"
    folder = ROOT / HERE
    # left by an earlier check; a card that it made would be refused as not new
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "my_data").mkdir(parents=True)
    rng = random.Random(0)
    proteins = {f"P{i}": protein(rng) for i in range(60)}
    names = list(proteins)
    answers = {name: rng.choice(["Binds ATP.", "Binds zinc.", "A kinase."]) for name in names}
    fasta(folder / "train.fasta", {n: proteins[n] for n in names[:40]})
    fasta(folder / "test.fasta", {n: proteins[n] for n in names[40:]})
    fasta(folder / "proteins.fasta", {n: proteins[n] for n in names[:2]})
    told = [
        dict(protein_id=n, sequence=proteins[n], answer=answers[n], prediction="A kinase.")
        for n in names[40:]
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(t) + "\n" for t in told))
    lines = [
        "sequence,task,answer,accession",
        *(f"{proteins[n]},function,{answers[n]},{n}" for n in names),
    ]
    (folder / "my_data" / "records.csv").write_text("\n".join(lines) + "\n")
    manifest = json.loads(blocks(text, "json")[0])
    manifest["origin"]["path"] = f"{HERE}/my_data"
    (folder / "mine.json").write_text(json.dumps(manifest))


def tried(command, how):
    "What is wrong with a command; empty when it does what it should"
    began = time.time()
    code, out = call(how.run, limit=LIMIT, shell=True)
    right = code in how.codes and how.words in out
    word = "ok    " if right else "FAILED"
    why = f"  [{how.why}]" if how.why else ""
    print(f"{word} {command}  {time.time() - began:.0f} s{why}", flush=True)
    last = "\n".join(out.strip().splitlines()[-25:])
    return (
        ""
        if right
        else f"{command}\n    {how.run}\n    exit code {code}, not {how.codes} with {how.words!r}:\n{last}"
    )


def python_blocks(text):
    "README's lines of Python as commands, with the file of proteins where it lies"
    found = {}
    for number, block in enumerate(blocks(text, "python"), 1):
        lines = block.replace('"proteins.fasta"', f'"{HERE}/proteins.fasta"')
        found[f"lines of Python {number}"] = Try(
            f".venv/bin/python -c {shlex.quote(lines)}", "", "P1\t"
        )
    return found


def untried(text):
    "What is wrong with the list of tries; empty when it has each of README's commands, and no other"
    found = commands(text)
    unknown, gone = [c for c in found if c not in TRIES], [c for c in TRIES if c not in found]
    if unknown:
        return f"README or RESULTS has commands that {Path(__file__).name} does not try: {unknown}"
    return f"{Path(__file__).name} tries commands that neither page has: {gone}" if gone else ""


def main():
    text = "\n".join((ROOT / page).read_text() for page in ("README.md", "RESULTS.md"))
    if wrong := untried(text):
        sys.exit(wrong)
    if "--check" in sys.argv:  # that they are listed, in a moment
        return
    found = commands(text)
    for folder in sorted(set(re.findall(r"\bruns/\w+(?=/\w+\.ipynb)", text))):
        if not (ROOT / folder).is_dir():
            sys.exit(f"{folder}, which README's commands write to, is not there after set-up")
    write_files(text)
    tries = {
        c: TRIES[c] for c in sorted(found, key=lambda c: "papermill" not in c)
    } | python_blocks(text)  # the longest first
    with ThreadPoolExecutor(2) as pool:
        wrong = list(filter(None, pool.map(tried, tries, tries.values())))
    if wrong:
        sys.exit("\n\n".join(wrong))


main()
