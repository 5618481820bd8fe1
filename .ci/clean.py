"""Deletes what can be made again and is ours, and says what it deleted and what stays. Standard library only; started by `make clean`.
Trained runs, and what was computed for them, go with `--runs` alone; what we did not write is never touched."""
import argparse, fnmatch, json, shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# what a run folder holds when nobody put anything else there
OF_A_RUN = ("config.json", "trained.json", "train.log", "log.jsonl", "bridge.py", "checkpoints", "model", "evaluation-*", "card-*", "tables",
            ".written.json", ".*.lock", ".*.tmp")
# what notebooks compute for all runs, below runs/shared; `assets`, which holds what was fetched, is not among them
SHARED = ("records-*", "clusters-*", "corpus-*", "features-*", "tokens-*", "free-*", "ledger-*", "smollm2-*", ".*.lock", ".*.tmp")


def matches(path, patterns): return any(fnmatch.fnmatch(path.name, p) for p in patterns)


def caches(root):
    "Python's caches of our code, the package's metadata, and what the tests wrote"
    found = [root/"runs"/"smoke", root/"protein_llm.egg-info"]
    for name in ("nbs", "protein_llm", ".ci", "bench"): found += sorted((root/name).rglob("__pycache__"))
    return [p for p in found if p.is_dir() and not p.is_symlink()]


def is_run(folder):
    "Whether training or evaluation made a folder"
    if folder.name.startswith("comparison-"): return True
    try: config = json.loads((folder/"config.json").read_text())
    except (OSError, ValueError): return False
    return isinstance(config, dict) and {"preset", "data", "model", "train"} <= config.keys()


def runs(root):
    "Folders of runs with nothing of anybody else's in them, and what was computed for them; beside it what stays, and why"
    ours, stays = [], []
    for folder in sorted(p for p in (root/"runs").glob("*") if p.is_dir() and p.name not in ("shared", "smoke", "reproduce")):
        others = [p.name for p in sorted(folder.iterdir()) if not matches(p, OF_A_RUN)]
        if folder.is_symlink() or not is_run(folder): stays.append(f"{folder.relative_to(root)}")
        elif others: stays.append(f"{folder.relative_to(root)}, which also holds {others[0]}")
        else: ours.append(folder)
    ours += [p for p in sorted((root/"runs"/"shared").glob("*")) if matches(p, SHARED) and p.is_dir() and not p.is_symlink()]
    return ours + [p for p in [root/"runs"/"reproduce"] if p.is_dir()], stays


def size(path): return sum(p.stat().st_size for p in path.rglob("*") if p.is_file() and not p.is_symlink())


def delete(root, folders):
    "Delete folders, a line each"
    for folder in folders:
        print(f"deleted {folder.relative_to(root)} ({size(folder)/1e6:,.1f} MB)")
        shutil.rmtree(folder)


def main(argv=None, root=ROOT):
    parser = argparse.ArgumentParser(prog="make clean", description=__doc__)
    parser.add_argument("--runs", action="store_true", help="also trained runs, evaluations, corpora and features")
    args = parser.parse_args(argv)
    delete(root, caches(root))
    ours, stays = runs(root)
    if args.runs: delete(root, ours)
    elif ours: print(f'{len(ours)} folders of runs, corpora and features stay: make clean args="--runs" deletes them, too')
    for line in stays: print(f"stays: {line}")
    print("stays: .venv, what was fetched (runs/shared/assets), and every file that is not named here")


if __name__ == "__main__": main()
