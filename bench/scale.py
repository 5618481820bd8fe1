"""The whole data path at full size: Swiss-Prot with GO terms (manifest `metastudent`) read, cleaned, clustered,
split, checked, tokenised and audited on this machine.

`python bench/scale.py` needs the Debian package `metastudent-data` unpacked into `data/metastudent` (its manifest
says how): 516,371 entries with 4,535,478 terms. `--quick` does the same with the shipped demo. Nothing is compared:
the figures are minutes, records and peak memory, with bars on the time of clustering, on the memory of our own
processes (MMseqs2 aside, which has its own) and on leaks. Each stage runs in a process of its own, in a folder where
nothing has been made before. Proteins of all lengths are taken, none is drawn out, and 500 clusters are held out for
test.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BARS = dict(cluster_minutes=60.0, peak_gb=1.5, leaks=0)
QUICK_BARS = dict(cluster_minutes=2.0, peak_gb=1.5, leaks=0)
STAGES = ("clean", "corpus", "tokens", "audit")


def config(manifest):
    from protein_llm.config import from_preset

    return from_preset(
        "tiny", "mlp", manifest=manifest, n_proteins=0, max_residues=40_000, train_cap=0
    )


def timed(module, name, seconds):
    "Replace a function of a module by itself with a clock"
    work = getattr(module, name)

    def clocked(*args, **kwargs):
        began = time.perf_counter()
        try:
            return work(*args, **kwargs)
        finally:
            seconds[name] = seconds.get(name, 0) + time.perf_counter() - began

    setattr(module, name, clocked)


def stage(name, manifest):
    "Facts of one stage"
    from protein_llm.core import read_json
    from protein_llm.data import corpus as c

    cfg = config(manifest)
    if name == "clean":
        from protein_llm.data.clean import build_records

        m = read_json(build_records(cfg.data) / "manifest.json")
        return dict(stated=m["stated"], records=m["records"], proteins=m["proteins"])
    if name == "corpus":
        seconds = {}
        for part in ("cluster_proteins", "drop_leaks"):
            timed(c, part, seconds)
        m = read_json(c.build_corpus(cfg.data, cfg.model.llm) / "manifest.json")
        return dict(
            cluster_minutes=seconds["cluster_proteins"] / 60,
            check_minutes=seconds["drop_leaks"] / 60,
            leaky_dropped=m["leaky_dropped"],
            train=m["records"]["train"],
            test=m["records"]["test"],
            test_clusters=m["clusters"]["test"],
        )
    corpus = c.Corpus(
        c.build_corpus(cfg.data, cfg.model.llm), frozenset(c.reserved_proteins(cfg.model.llm))
    )
    if name == "tokens":
        from protein_llm.text.prompts import build_tokens

        return dict(
            tokens=read_json(
                build_tokens(corpus.records, corpus.proteins, cfg.model, corpus.manifest["key"])
                / "manifest.json"
            )["tokens"]
        )
    from protein_llm.data.ledger import corpus_ledger, ledger_text

    ledger = corpus_ledger(corpus, cfg.encoder.weights, cfg.model.llm)
    print(ledger_text(ledger), file=sys.stderr)
    return dict(leaks=len(ledger.leaks))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="the shipped demo, smaller bars")
    parser.add_argument(
        "--stage",
        nargs=2,
        metavar=("NAME", "MANIFEST"),
        help="do one stage in the working folder and stop",
    )
    args = parser.parse_args()
    if args.stage:
        began = time.perf_counter()
        facts = stage(*args.stage)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            2**30 if sys.platform == "darwin" else 2**20
        )
        return print(
            json.dumps(facts | dict(minutes=(time.perf_counter() - began) / 60, peak_gb=peak))
        )
    figures = {}
    (ROOT / "runs").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "runs", prefix="bench-scale-") as d:
        for name in ("settings.ini", "protein_llm", "data_manifests", "assets", "data"):
            if (ROOT / name).exists():
                (Path(d) / name).symlink_to(ROOT / name)
        for name in STAGES:
            call = [
                sys.executable,
                __file__,
                "--stage",
                name,
                "demo" if args.quick else "metastudent",
            ]
            done = subprocess.run(
                call,
                cwd=d,
                env=os.environ | dict(PYTHONPATH=str(ROOT)),
                stdout=subprocess.PIPE,
                text=True,
            )
            if done.returncode:
                sys.exit(f"{name} ended with exit code {done.returncode}")
            facts = json.loads(done.stdout.splitlines()[-1])
            digits = {
                k: f"{v:,.4g}" if isinstance(v, float) else f"{v:,}" for k, v in facts.items()
            }
            print(f"{name}: {', '.join(f'{k} {v}' for k, v in digits.items())}", flush=True)
            figures |= {
                k if k not in ("minutes", "peak_gb") else f"{name}_{k}": v for k, v in facts.items()
            }
    figures |= dict(
        minutes=sum(figures[f"{n}_minutes"] for n in STAGES),
        peak_gb=max(figures[f"{n}_peak_gb"] for n in STAGES),
    )
    figures, bars = (
        {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in figures.items()},
        QUICK_BARS if args.quick else BARS,
    )
    ok = all(figures[k] <= bar for k, bar in bars.items())
    print(json.dumps(dict(bench="scale", figures=figures, bars=bars, ok=ok)))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
