"""Six raw sources to one Parquet file of cleaned, merged records: ours against Hugging Face `datasets` (map and
filter) and against a Polars script.

`python bench/assemble.py` takes 35 copies of the shipped demo (each with sequences of its own, in the six raw
formats; 1.9 GB), of which 4.0 M records are kept, and is judged by PERF's bars; `--quick` is the same at 0.3 M
records with the smaller bars below. Before a ratio is printed, all have to have kept the same set of (sequence, task,
question, answer), and ours and `polars` the same record ids with the same sources. Each side runs in a process of its
own, which reports seconds of work without imports, and its peak memory; in turns, the faster of two rounds counts.
The peers get what suits them: `datasets` two processes and batches where a row holds several texts; Polars the same
expressions as ours, all memory, eagerly. `polars` makes what ours makes apart from instructions, provenance, refused
records and counts: named proteins, record ids, sources of merged records. `polars_bare` only drops duplicates: no
ids, no sources, nothing that a corpus could be split by; it is reported without a bar.
The smaller bars of a quick run: 0.3 M records take ours about 2.5 s, of which a part does not grow (16 partitions,
threads), and all of Polars' data fit the memory easily.
At full size ours took 19.9 s and 1.09 GB on 2 cores: 2.37 times as fast as Polars, 21.4 times as `datasets`.
"""

import argparse
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from peers import peer_program

ROOT = Path(__file__).resolve().parent.parent
BARS = dict(speed_datasets=20.0, speed_polars=1.5, peak_gb=1.5)
# 8.8 on two cores of a Zen 4 processor, where the version that had 11.7 elsewhere has 9.2
QUICK_BARS = dict(speed_datasets=8.0, speed_polars=0.6, peak_gb=0.8)
COPIES, QUICK_COPIES = 35, 2
MAX_RESIDUES = 512


# ---------------------------------------------------------------- input


def copied(sequence, accession, c):
    "Sequence and accession of the c-th copy of a protein: turned by c residues, of the same length"
    k = 7 * c % max(1, len(sequence))
    return sequence[k:] + sequence[:k], f"{accession}{c:02d}" if c else accession


def odd(sequence, i):
    "A few sequences as sources really have them: lower case, with a closing *, with a letter that is no residue"
    if i % 997 == 0:
        return sequence.lower()
    if i % 499 == 0:
        return sequence + "*"
    return sequence[:5] + "7" + sequence[6:] if i % 1009 == 0 else sequence


def json_copies(rows, change, copies, path):
    "A JSON list: for each copy the changed rows, every ninth of them twice"
    with open(path, "w") as f:
        comma, i = "[\n", 0
        for c in range(copies):
            for r in rows:
                i += 1
                text = json.dumps(change(r, c, i))
                for _ in range(2 if i % 9 == 0 else 1):
                    f.write(comma + text)
                    comma = ",\n"
        f.write("\n]\n")


def make_input(demo, out, copies):
    "The six raw formats, `copies` times the demo"
    for p in (
        "mol_instructions",
        "swissprot",
        "protein_lm",
        "swissprot_clap",
        "prot_describe",
        "protein2text_qa",
    ):
        (out / p).mkdir(parents=True)

    def mol(r, c, i):
        seq, acc = copied(r["input"].strip("`\n"), r["metadata"]["protein_accession"], c)
        return r | dict(
            input=f"```\n{odd(seq, i)}\n```",
            output="" if i % 1013 == 0 else r["output"],
            metadata=r["metadata"] | dict(protein_accession=acc),
        )

    for p in sorted((demo / "mol_instructions").glob("*.json")):
        json_copies(json.loads(p.read_text()), mol, copies, out / "mol_instructions" / p.name)

    def qa(r, c, i):
        seq, acc = copied(r["amino_seq"], r["protein_id"], c)
        return r | dict(amino_seq=odd(seq, i), protein_id=acc)

    json_copies(
        json.loads((demo / "protein2text_qa/protein2text_qa.json").read_text()),
        qa,
        copies,
        out / "protein2text_qa/protein2text_qa.json",
    )

    def lm(r, c, i):
        text = r["conversation"][0]["output"]
        acc, spaced = re.search(r"number (\w+)", text)[1], re.search("<seq> (.*?) </seq>", text)[1]
        seq, other = copied(spaced.replace(" ", ""), acc, c)
        return dict(
            conversation=[
                dict(
                    system="",
                    input="",
                    output=text.replace(spaced, " ".join(odd(seq, i)), 1).replace(
                        f"number {acc}", f"number {other}", 1
                    ),
                )
            ]
        )

    json_copies(
        json.loads((demo / "protein_lm/swissProt2Text.json").read_text()),
        lm,
        copies,
        out / "protein_lm/swissProt2Text.json",
    )
    entries = ("\n" + (demo / "swissprot/uniprot_sprot.fasta").read_text()).split("\n>")[1:]
    acc, seqs = (
        (demo / f"swissprot_clap/{n}_sequence.txt").read_text().splitlines()
        for n in ("text", "protein")
    )
    header, *table = (demo / "prot_describe/uniprot_sprot_filtered.tsv").read_text().splitlines()
    with (
        open(out / "swissprot/uniprot_sprot.fasta", "w") as fasta,
        open(out / "swissprot_clap/protein_sequence.txt", "w") as left,
        open(out / "swissprot_clap/text_sequence.txt", "w") as right,
        open(out / "prot_describe/uniprot_sprot_filtered.tsv", "w") as tsv,
    ):
        tsv.write(header + "\n")
        for c in range(copies):
            for i, e in enumerate(entries):
                head, _, seq = e.partition("\n")
                kind, old, rest = head.split("|", 2)
                seq, new = copied(seq.replace("\n", ""), old, c)
                seq = odd(seq, i + 1)
                fasta.write(
                    f">{kind}|{new}|{rest}\n"
                    + "".join(seq[k : k + 60] + "\n" for k in range(0, len(seq), 60))
                )
            for i in range(0, len(acc), 2):
                seq, new = copied(seqs[i + 1], acc[i], c)
                left.write(f"{new}\n{odd(seq, i + 1)}\n")
                right.write(f"{new}\n{acc[i + 1]}\n")
            for i, line in enumerate(table):
                *fields, seq = line.split("\t")
                tsv.write("\t".join([*fields, odd(copied(seq, "", c)[0], i + 1)]) + "\n")


# ---------------------------------------------------------------- ours


def ours(data, out):
    "Ours without two of its rules, names that say nothing and unbalanced answers, which the peers do not have"
    import polars as pl

    from protein_llm.config import MEMORY_TASKS, TASKS, DataConfig
    from protein_llm.data.clean import assemble

    formats = (
        "mol_instructions",
        "swissprot",
        "protein_lm",
        "swissprot_clap",
        "prot_describe",
        "protein2text_qa",
    )
    cfg = DataConfig(tasks=TASKS + MEMORY_TASKS, max_residues=MAX_RESIDUES)
    sources = [dict(source=f, format=f, path=f) for f in formats]
    nobody = pl.Series([], dtype=pl.UInt64)
    keep_names = mock.patch("protein_llm.data.clean._no_name", lambda recipe: pl.lit(False))
    keep_answers = mock.patch("protein_llm.data.clean._beyond_balance", lambda intake: nobody)
    with keep_names, keep_answers:
        start = time.perf_counter()
        assemble(sources, data, cfg, out)
    return start


# ---------------------------------------------------------------- peers: what one would write without us

TAGS = r"\s*\{(?:ECO|PubMed)[^{}]*\}|\s*\((?:PubMed:\d+(?:, )?)+\)|\s*\[MIM:\d+\]"
GREEK = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|"
    "nu|xi|omicron|pi|rho|sigma|tau|upsilon|phi|chi|psi|omega"
)
MEMBER = rf"(?:\s+(?:\S*\d\S*|,*(?:[A-Z]{{1,2}}|[IVX]+|(?i:{GREEK})(?:[/-](?i:{GREEK}))*),*))+$"
PLACE = ", (?:mitochondrial|chloroplastic)$"
HEADER = r"(?:sp|tr)\|([\w-]+)\|\w+ (.*?) OS=(.*?) OX=\d+(?: GN=(.*?))? PE="
SECTIONS = {"Function": "function", "Subunit Structure": "subunit"}  # those of the demo
TEXTS = dict(
    ProteinName="name", Function="function", SubcellularLocation="location", Similarity="family"
)


def datasets_peer(data, out):
    "Load each source, `map` it to records, concatenate, `map` the cleaning, `filter`, drop duplicates, write"
    import datasets

    datasets.disable_progress_bars()
    keys = ("sequence", "task", "question", "answer")

    def table(rows):
        return {k: [r[i] for r in rows] for i, k in enumerate(keys)}

    def mol(b, task):
        return table(
            [
                (i.split("```")[1].strip(), task, "", o)
                for i, o in zip(b["input"], b["output"], strict=True)
            ]
        )

    def qa(b):
        return table(
            [
                (s, "qa", c[0]["value"].replace("<protein_sequence>", "").strip(), c[1]["value"])
                for s, c in zip(b["amino_seq"], b["conversations"], strict=True)
            ]
        )

    def lm(b):
        rows = []
        for (turn,) in b["conversation"]:
            text = turn["output"]
            seq = re.search("<seq>(.*?)</seq>", text, re.S)[1]
            parts = re.split(r"(?m)^(Introduction|" + "|".join(SECTIONS) + "):$", text)
            for head, body in zip(parts[1::2], parts[2::2], strict=True):
                if head in SECTIONS:
                    lines = [line.strip() for line in body.strip().splitlines() if line.strip()]
                    rows.append(
                        (
                            seq,
                            SECTIONS[head],
                            "",
                            " ".join(
                                lines[1:] if len(lines) > 1 and lines[0].endswith(":") else lines
                            ),
                        )
                    )
        return table(rows)

    def tsv(b):
        return table(
            [
                (s, t, "", x)
                for c, t in TEXTS.items()
                for s, x in zip(b["Sequence"], b[c], strict=True)
                if x
            ]
        )

    def fasta():
        from itertools import chain

        head, seq = None, []
        for line in chain(open(data / "swissprot/uniprot_sprot.fasta"), [">"]):
            if not line.startswith(">"):
                seq.append(line.strip())
                continue
            if head:
                for task, text in zip(
                    ("name", "organism", "gene"), re.match(HEADER, head).groups()[1:], strict=True
                ):
                    if text:
                        yield dict(sequence="".join(seq), task=task, question="", answer=text)
            head, seq = line[1:], []

    def clap():
        with (
            open(data / "swissprot_clap/protein_sequence.txt") as p,
            open(data / "swissprot_clap/text_sequence.txt") as t,
        ):
            for _, s, _, x in zip(p, p, t, t, strict=False):
                yield dict(sequence=s.strip(), task="description", question="", answer=x.strip())

    def clean(r):
        a = r["answer"]
        if r["task"] == "name":
            a = re.sub(MEMBER, "", re.sub(PLACE, "", a.strip())).rstrip(",")
        a = re.sub(r"\s+([.;,])", r"\1", re.sub(r"\s+", " ", re.sub(TAGS, "", a))).strip()
        return dict(sequence=re.sub(r"\s+", "", r["sequence"]).upper().removesuffix("*"), answer=a)

    def good(r):
        return (
            bool(r["answer"])
            and 3 <= len(r["sequence"]) <= MAX_RESIDUES
            and not re.search("[^A-IK-Z]", r["sequence"])
        )

    def load(kind, path, **kw):
        return datasets.load_dataset(
            kind, data_files=str(data / path), split="train", cache_dir=str(out / "cache"), **kw
        )

    start = time.perf_counter()
    wide = [
        (load("json", p.relative_to(data)), mol, dict(task=p.stem))
        for p in sorted((data / "mol_instructions").glob("*.json"))
    ]
    wide += [
        (load("json", "protein_lm/swissProt2Text.json"), lm, {}),
        (load("json", "protein2text_qa/protein2text_qa.json"), qa, {}),
        (
            load(
                "csv",
                "prot_describe/uniprot_sprot_filtered.tsv",
                delimiter="\t",
                quoting=3,
                keep_default_na=False,
            ),
            tsv,
            {},
        ),
    ]
    parts = [
        d.map(f, batched=True, fn_kwargs=kw, remove_columns=d.column_names, num_proc=2)
        for d, f, kw in wide
    ]
    parts += [
        datasets.Dataset.from_generator(g, cache_dir=str(out / "cache")) for g in (fasta, clap)
    ]
    found = datasets.concatenate_datasets(parts).map(clean, num_proc=2).filter(good, num_proc=2)
    seen = set()

    def new(r):
        k = hashlib.md5("\t".join(r[k] for k in keys).encode()).digest()
        return k not in seen and not seen.add(k)

    found.filter(new).to_parquet(out / "records.parquet")
    return start


def polars_peer(data, out, bare=False):
    "Read each source whole, clean with expressions, name, merge, write; `bare` only drops duplicates"
    import polars as pl

    start = time.perf_counter()

    def frame(source, sequence, task, answer, question="", accession=""):
        def lit(v):
            return pl.lit(v, dtype=pl.String) if isinstance(v, str) else v

        return dict(sequence=sequence, task=lit(task), question=lit(question), answer=answer) | (
            {} if bare else dict(source=lit(source), accession=lit(accession))
        )

    parts = []
    for p in sorted((data / "mol_instructions").glob("*.json")):
        parts.append(
            pl.read_json(p).select(
                **frame(
                    "mol_instructions",
                    pl.col("input").str.strip_chars("`\n"),
                    p.stem,
                    pl.col("output"),
                    accession=pl.col("metadata").struct.field("protein_accession"),
                )
            )
        )
    qa = pl.read_json(data / "protein2text_qa/protein2text_qa.json")

    def turn(i):
        return pl.col("conversations").list.get(i).struct.field("value")

    parts.append(
        qa.select(
            **frame(
                "protein2text_qa",
                pl.col("amino_seq"),
                "qa",
                turn(1),
                turn(0).str.replace("<protein_sequence>", "", literal=True).str.strip_chars(),
                pl.col("protein_id"),
            )
        )
    )
    lm = pl.read_json(data / "protein_lm/swissProt2Text.json").select(
        text=pl.col("conversation").list.get(0).struct.field("output")
    )
    for head, task in SECTIONS.items():
        body = pl.col("text").str.extract(rf"(?s)\n{head}:\n[^\n]*:\n(.*?)(?:\n\n|$)")
        parts.append(
            lm.select(
                **frame(
                    "protein_lm",
                    pl.col("text").str.extract(r"(?s)<seq>(.*?)</seq>"),
                    task,
                    body.str.strip_chars(),
                    accession=pl.col("text").str.extract(r"number (\w+)"),
                )
            ).drop_nulls("answer")
        )
    tsv = pl.read_csv(
        data / "prot_describe/uniprot_sprot_filtered.tsv",
        separator="\t",
        quote_char=None,
        infer_schema=False,
    )
    for column, task in TEXTS.items():
        parts.append(
            tsv.select(**frame("prot_describe", pl.col("Sequence"), task, pl.col(column))).filter(
                pl.col("answer").fill_null("") != ""
            )
        )
    entries = ("\n" + (data / "swissprot/uniprot_sprot.fasta").read_text()).split("\n>")[1:]
    sp = pl.DataFrame(dict(entry=entries)).select(
        pl.col("entry").str.extract_groups(HEADER).alias("g"),
        sequence=pl.col("entry").str.replace(r"^[^\n]*\n", ""),
    )
    sp = sp.with_columns(
        pl.col("g").struct.rename_fields(["acc", "name", "organism", "gene"])
    ).unnest("g")
    for task in ("name", "organism", "gene"):
        parts.append(
            sp.select(
                **frame(
                    "swissprot", pl.col("sequence"), task, pl.col(task), accession=pl.col("acc")
                )
            ).drop_nulls("answer")
        )
    seq, text = (
        (data / f"swissprot_clap/{n}_sequence.txt").read_text().splitlines()
        for n in ("protein", "text")
    )
    parts.append(
        pl.DataFrame(dict(a=seq[::2], s=seq[1::2], t=text[1::2])).select(
            **frame(
                "swissprot_clap", pl.col("s"), "description", pl.col("t"), accession=pl.col("a")
            )
        )
    )
    a, s = pl.col("answer"), pl.col("sequence")
    names = (
        a.str.strip_chars().str.replace(PLACE, "").str.replace(MEMBER, "").str.strip_chars_end(",")
    )

    def clean(e):
        return (
            e.str.replace_all(TAGS, "")
            .str.replace_all(r"\s+", " ")
            .str.replace_all(r"\s+([.;,])", "$1")
            .str.strip_chars()
        )

    found = pl.concat(parts).with_columns(
        answer=clean(pl.when(pl.col("task") == "name").then(names).otherwise(a)),
        sequence=s.str.replace_all(r"\s+", "").str.to_uppercase().str.strip_suffix("*"),
    )
    found = found.filter(
        (a != "") & s.str.len_bytes().is_between(3, MAX_RESIDUES) & ~s.str.contains("[^A-IK-Z]")
    )
    if not bare:
        named = (
            found.filter(pl.col("accession") != "")
            .unique("sequence", keep="first", maintain_order=True)
            .select("sequence", protein_id="accession")
        )
        found = found.drop("accession").join(
            named, on="sequence", how="left", maintain_order="left"
        )
        lone = pl.col("sequence").map_elements(
            lambda s: "seq-" + hashlib.sha256(s.encode()).hexdigest()[:12], return_dtype=pl.String
        )
        found = pl.concat(
            [
                found.filter(pl.col("protein_id").is_not_null()),
                found.filter(pl.col("protein_id").is_null()).with_columns(protein_id=lone),
            ]
        )
        keys = found.select(
            pl.concat_str("protein_id", "task", "question", "answer", separator="\t")
        ).to_series()
        found = found.with_columns(
            record_id=pl.Series(
                [hashlib.sha256(k.encode()).hexdigest()[:16] for k in keys], dtype=pl.String
            )
        )
        found = (
            found.group_by("record_id")
            .agg(
                pl.col("sequence", "protein_id", "task", "question", "answer").first(),
                sources=pl.col("source").unique().sort(),
            )
            .sort("record_id")
        )
        found.select("protein_id", "sequence").unique("protein_id").sort(
            "protein_id"
        ).write_parquet(out / "proteins.parquet", compression="zstd", compression_level=1)
        found = found.drop("sequence")
    else:
        found = found.unique(maintain_order=True)
    found.write_parquet(out / "records.parquet", compression="zstd", compression_level=1)
    return start


def polars_bare(data, out):
    return polars_peer(data, out, bare=True)


# ---------------------------------------------------------------- comparison

SIDES = dict(ours=ours, polars=polars_peer, polars_bare=polars_bare, datasets=datasets_peer)


def side(name, data, out):
    "Run one side in this process; print seconds and peak memory of it and its children"
    start = SIDES[name](Path(data), Path(out))
    seconds = time.perf_counter() - start
    peak = max(
        resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(
        json.dumps(
            dict(seconds=seconds, peak_gb=peak / (2**30 if sys.platform == "darwin" else 2**20))
        )
    )


def run(name, data, work):
    "Seconds and peak memory of one side, and its kept set as sorted 64-bit hashes"
    out = work / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    env = os.environ | dict(
        PYTHONPATH=str(ROOT),
        HF_DATASETS_CACHE=str(out / "cache"),
        HF_DATASETS_OFFLINE="1",
        HF_HUB_OFFLINE="1",
    )
    python = sys.executable if name == "ours" else peer_program("python")
    call = [python, __file__, "--side", name, data, out]
    os.sync()  # nobody waits for what another side is still writing to the disk
    done = subprocess.run([str(c) for c in call], capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr[-3000:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    print(f"{name}: {said['seconds']:.1f} s, peak {said['peak_gb']:.2f} GB", flush=True)
    return said


def kept(name, work):
    "The set of (sequence, task, question, answer) that a side kept, as sorted hashes, one batch of the file at a time"
    import numpy as np
    import polars as pl
    import pyarrow.parquet as pq

    records = pq.ParquetFile(work / name / "records.parquet")
    named = (work / name / "proteins.parquet").exists()
    sequences = (
        pl.read_parquet(work / name / "proteins.parquet", columns=["protein_id", "sequence"])
        if named
        else None
    )
    found = []
    for batch in records.iter_batches(200_000):
        t = pl.from_arrow(batch)
        if name == "ours":
            t = t.with_columns(
                protein_id=pl.col("protein_ids").list.first(),
                question=pl.when(pl.col("task") == "qa").then("instruction").otherwise(pl.lit("")),
            )
        if named:
            t = t.join(sequences, on="protein_id")
        found.append(
            t.select(
                pl.struct(pl.col("sequence", "task", "question", "answer").cast(pl.String)).hash(7)
            )
            .to_series()
            .to_numpy()
        )
    found = np.sort(np.concatenate(found))
    assert len(np.unique(found)) == len(found), f"{name} kept a record twice"
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="0.3 M records, smaller bars")
    parser.add_argument("--copies", type=int, help="copies of the demo, about 0.14 M records each")
    parser.add_argument(
        "--without",
        nargs="+",
        default=[],
        choices=list(SIDES)[1:],
        help="leave peers out: for work on ours",
    )
    parser.add_argument(
        "--side", nargs=3, metavar=("NAME", "DATA", "OUT"), help="run one side and stop"
    )
    args = parser.parse_args()
    if args.side:
        return side(*args.side)
    peer_program("python")  # or end, before anything is made
    import polars as pl

    from protein_llm.data.manifest import fetch

    names = [n for n in SIDES if n not in args.without]
    (ROOT / "runs").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "runs", prefix="bench-assemble-") as d:
        work, data = Path(d), Path(d) / "data"
        make_input(fetch("demo"), data, args.copies or (QUICK_COPIES if args.quick else COPIES))
        print(
            f"input: {sum(p.stat().st_size for p in data.rglob('*') if p.is_file()) / 1e9:.2f} GB",
            flush=True,
        )
        # before this process grows: what it starts would show its peak memory as theirs
        rounds = [{n: run(n, data, work) for n in names} for _ in range(2)]
        sets = {n: kept(n, work) for n in names}
        for n in names[1:]:
            assert len(sets[n]) == len(sets["ours"]) and (sets[n] == sets["ours"]).all(), (
                f"{n} kept {len(sets[n])} records, ours {len(sets['ours'])}: not the same set"
            )
        if "polars" in names:
            ids = [
                pl.read_parquet(work / n / "records.parquet", columns=["record_id", "sources"])
                for n in ("ours", "polars")
            ]
            assert ids[0].equals(ids[1]), (
                "record ids or their sources differ between ours and Polars"
            )
    best, peak = (
        {n: choose(r[n][k] for r in rounds) for n in names}
        for choose, k in ((min, "seconds"), (max, "peak_gb"))
    )
    bars = QUICK_BARS if args.quick else BARS
    figures = dict(
        records=len(sets["ours"]),
        seconds=best["ours"],
        peak_gb=peak["ours"],
        **{f"speed_{n}": best[n] / best["ours"] for n in names[1:]},
        **{f"{n}_peak_gb": peak[n] for n in names[1:]},
    )
    figures = {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in figures.items()}
    ok = all(
        k in figures and (figures[k] <= bar if k == "peak_gb" else figures[k] >= bar)
        for k, bar in bars.items()
    )
    print(json.dumps(dict(bench="assemble", figures=figures, bars=bars, ok=ok)))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
