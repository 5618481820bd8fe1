"""Deletes Python's caches of our code, and says what lies in runs/. Standard library only; started by `make clean`.

Runs, corpora and features can be made again, but only their owner knows which are still wanted, and what else was put
there: they are listed with their sizes and deleted by hand.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def caches(root):
    "Compiled files of our code; nothing is looked for through a link"
    found = []
    for name in ("nbs", "protein_llm", ".ci", "scripts", "bench"):
        found += sorted((root / name).rglob("__pycache__/*.pyc"))
    return [p for p in found if not p.is_symlink() and not p.parent.is_symlink()]


def delete(files):
    "Delete files, and the folders that are empty then"
    for path in files:
        path.unlink()
    for folder in {p.parent for p in files}:
        if not any(folder.iterdir()):
            folder.rmdir()


def size(path):
    "Bytes below a folder, links aside"
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file() and not p.is_symlink())


def main(root=ROOT):
    found = caches(root)
    delete(found)
    print(f"deleted {len(found)} compiled files")
    for folder in sorted(p for p in (root / "runs").glob("*") if p.is_dir()):
        print(f"stays: runs/{folder.name}  {size(folder) / 1e6:,.0f} MB")
    print(
        "stays: .venv and every other file. What is not wanted any more is deleted by hand: rm -r runs/<name>"
    )


if __name__ == "__main__":
    main()
