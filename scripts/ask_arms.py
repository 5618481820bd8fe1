"""What `protein-llm ask` finds beside a shipped arm.

`python scripts/ask_arms.py pack RUN` packs the trained arm of a run as assets/tiny_mlp: its weights in half precision,
its configuration and the ids of its train proteins, and writes the manifest tiny_mlp.

`python scripts/ask_arms.py calibrate ARM` asks a shipped arm, or the folder of a run, about proteins that it was not
trained on, and writes calibration.json: how often answers were right that look alike. The proteins are those of the
same records that stand in no split of the arm, nor among those that its language model saw, and have no relative
among these or in train. Of smollm2_mlp the validation proteins are not on record, so some may be among them. Questions
of a kind that no trained wording is near are left out, as they get no confidence. Minutes for tiny_mlp, a quarter of an
hour for smollm2_mlp on two cores."""

import argparse
import sys
import tarfile
import tempfile
from pathlib import Path

import pandas as pd

from protein_llm.apps.ask import ask_fold, calibrate
from protein_llm.apps.confidence import RIGHT, trust_table
from protein_llm.apps.evidence import SHIPPED_ARMS, load_arm, shipped_data
from protein_llm.config import RunConfig
from protein_llm.core import read_json, sha256_file, write_atomic, write_json
from protein_llm.data.clean import build_records
from protein_llm.data.corpus import reserved_proteins
from protein_llm.data.split import cluster_proteins, drop_leaks, shuffle_key
from protein_llm.model.export import pack_half
from protein_llm.runs.data import RunData

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "assets" / "tiny_mlp"
QUESTIONS = dict(smollm2_mlp=480)  # of the fold, at most; others
MANY = 800
OF_A_PROTEIN = 2  # questions
RELATIVES = "none with 30 % identity over 80 % of the shorter protein to one of train"


def manifest_of(archive, cfg, run):
    "The manifest of a packed arm"
    with tempfile.TemporaryDirectory() as d:
        with tarfile.open(archive) as tar:
            tar.extractall(d, filter="data")
        paths = sorted(p for p in Path(d).rglob("*") if p.is_file())
        files = {
            p.relative_to(d).as_posix(): dict(sha256=sha256_file(p), bytes=p.stat().st_size)
            for p in paths
        }
    origin = dict(kind="archive", path=archive.relative_to(ROOT).as_posix())
    origin |= dict(sha256=sha256_file(archive), bytes=archive.stat().st_size)
    return dict(
        name="tiny_mlp",
        origin=origin,
        description=f"The trained arm {cfg.model.arch} of the default configuration: bridge, adapter and tokenizer, "
        f"weights in half precision; the language model is the manifest {cfg.model.llm}, the encoder "
        f"{cfg.encoder.weights}",
        licence="Apache-2.0 (weights); the records that it was trained on: CC BY 4.0, CC0",
        attribution=f"Trained by this project (run {run.name} of `make reproduce`) on records of the manifest "
        f"{cfg.data.manifest}; assets/tiny_mlp/train_proteins.txt says on which proteins",
        files=files,
    )


def pack(run):
    "assets/tiny_mlp from a run"
    cfg = RunConfig.load(run / "config.json")
    proteins = RunData(cfg).corpus.proteins
    train = sorted(proteins.index[proteins.split == "train"])
    archive = TINY / "model.tar.xz"
    TINY.mkdir(parents=True, exist_ok=True)
    archive.unlink(missing_ok=True)
    pack_half(run / "model", archive)
    with write_atomic(TINY / "train_proteins.txt") as tmp:
        tmp.write_text("\n".join(train) + "\n")
    write_json(TINY / "config.json", read_json(run / "config.json"))
    held = {s: sorted(proteins.index[proteins.split == s]) for s in ("valid", "test")}
    with write_atomic(TINY / "held_out_proteins.txt") as tmp:
        tmp.write_text("\n".join(sorted({*held["valid"], *held["test"]})) + "\n")
    write_json(ROOT / "data_manifests" / "tiny_mlp.json", manifest_of(archive, cfg, run))
    print(f"{archive}: {archive.stat().st_size:,} bytes, {len(train):,} train proteins")


def held_out(name):
    "Proteins that a shipped arm was measured on, or chosen with"
    folder = ROOT / "assets" / SHIPPED_ARMS[name]
    if name == "tiny_mlp":
        return {*(folder / "held_out_proteins.txt").read_text().split()}
    tables = [pd.read_parquet(folder / f"{t}.parquet") for t in ("ranking", "predictions")]
    return {p for t in tables for p in t.protein_id}


def sources(given):
    "Rules of the records, held-out proteins, and where the calibration goes"
    if given in SHIPPED_ARMS:
        return shipped_data(given), held_out(given), ROOT / "assets" / SHIPPED_ARMS[given]
    run = Path(given)
    cfg = RunConfig.load(run / "config.json")
    proteins = RunData(cfg).corpus.proteins
    return cfg.data, {*proteins.index[proteins.split.isin(("valid", "test"))]}, run


def fold_of(arm, data, used, config, most):
    "Questions about proteins that were not trained on: protein, sequence, instruction, answer, cluster"
    folder = build_records(data)
    proteins = pd.read_parquet(folder / "proteins.parquet")[["protein_id", "sequence"]]
    seen = reserved_proteins(arm.model.cfg.llm)
    ids = proteins.protein_id
    split = pd.Series("valid", proteins.index).mask(ids.isin(used), "used")
    split = split.mask(ids.isin(arm.train.proteins.index), "train").mask(ids.isin(seen), "reserved")
    free = sorted(ids[split == "valid"], key=lambda p: shuffle_key(0, p))
    split = split.mask(ids.isin(free[most:]), "used")  # no need to look for relatives of all
    rule = data.min_seq_id, data.coverage
    table, _ = drop_leaks(proteins.assign(split=split, cluster=ids), *rule)
    table = table[table.split == "valid"].reset_index(drop=True)
    clusters = cluster_proteins(table[["protein_id", "sequence"]])
    records = pd.read_parquet(folder / "records.parquet")
    records = records.assign(protein_id=records.protein_ids.str[0])
    weights = read_json(config)["train"]["task_weights"]
    asked = {*arm.train.records.task} - {task for task, weight in weights if not weight}
    records = records[records.protein_id.isin(table.protein_id) & records.task.isin(asked)]
    sequences = table.set_index("protein_id").sequence
    return records.assign(
        sequence=records.protein_id.map(sequences), cluster=records.protein_id.map(clusters)
    )


def some_of(records, most):
    "At most so many questions, few of a protein, in an order that the ids decide"
    order = sorted(records.index, key=lambda i: shuffle_key(0, f"{records.record_id[i]}"))
    records = records.loc[order]
    records = records[records.groupby("protein_id").cumcount() < OF_A_PROTEIN]
    return records.head(most).reset_index(drop=True)


def make_calibration(given, most):
    "calibration.json of an arm"
    data, used, folder = sources(given)
    arm = load_arm(given)
    most = most or QUESTIONS.get(given, MANY)
    fold = some_of(fold_of(arm, data, used, folder / "config.json", most), most)
    if not len(fold):
        sys.exit(f"{given}: no protein is left that it was not made with")
    told = f"proteins of the manifest {data.manifest} in no split of the arm, {RELATIVES}."
    if given == "smollm2_mlp":
        told += " Settings of baselines were chosen on them; its training may have watched its loss on some."
    found = calibrate(ask_fold(arm, fold), RIGHT, dict(fold=told))
    write_json(folder / "calibration.json", found)
    print(trust_table(found).to_string(index=False))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("pack", "calibrate"))
    parser.add_argument("arm", help="a shipped arm's name, or a run's folder")
    parser.add_argument("--questions", type=int, default=0, help="at most; 0: as shipped")
    given = parser.parse_args()
    if given.what == "pack":
        pack(Path(given.arm))
    else:
        make_calibration(given.arm, given.questions)


if __name__ == "__main__":
    main()
