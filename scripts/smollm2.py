"""What a trained arm of a larger language model is worth beside baselines that see the same train proteins.

`make smollm2` reads assets/smollm2 and writes figures/smollm2. `python scripts/smollm2.py FOLDER OUT` takes another
run: config.json, train_proteins.txt (ids, one a line), ranking.parquet (log-likelihood of each record's answer under
ten proteins; record_id is `7#0` for the own one), predictions.parquet, and origin.json, which says where it was made.

The run may be of a split that today's code does not make. So test proteins with a relative among those that it was
trained on are dropped by today's rule. Baselines learn from today's records of its train proteins; `k` and `alpha`
are chosen on proteins that are neither in train nor in test and have no relative in either."""

import argparse
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from protein_llm.config import DataConfig, EncoderConfig
from protein_llm.core import read_json, write_atomic, write_json
from protein_llm.data.clean import build_records
from protein_llm.data.corpus import HITS
from protein_llm.data.manifest import fetch
from protein_llm.data.sets import read_set
from protein_llm.data.split import (
    cluster_proteins,
    drop_leaks,
    find_relatives,
    mmseqs_name,
)
from protein_llm.evaluation.baselines import (
    answer_by_baselines,
    baseline_scores,
    composition,
    ranked_settings,
)
from protein_llm.evaluation.compare import GROUPED, ranking_tables
from protein_llm.evaluation.ranking import OTHERS, ranked_records
from protein_llm.proteins.encoder import load_encoder
from protein_llm.proteins.features import (
    FeatureStore,
    build_features,
    feature_folder,
)
from protein_llm.reporting.report import results_table, without_hits
from protein_llm.scoring.entities import (
    Information,
    frozen_dictionary,
    known_entities,
)
from protein_llm.scoring.names import BASELINES
from protein_llm.scoring.table import (
    METRICS,
    answer_statistics,
    difference_table,
    label,
    score_table,
    verdict,
)

ROOT = Path(__file__).resolve().parent.parent
FASTA = "swissprot/uniprot_sprot.fasta"  # of the manifest: it has proteins without a record, too
RANKED = ("ridge_feature", "knn_feature", "composition")
AGAINST = ("ridge_feature", "knn_feature")
ANSWERED = ("rouge_l", "information_f1", "hallucination_rate")
SHOWN = ("which_protein_pairs", "which_protein_first", *ANSWERED)
SPLITS = ("test", "test_with_relatives", "test_without_hits")  # the first is the headline
ENZYMES = "catalytic_activity"
SIDES = {
    "reactions of enzymes": (SPLITS[0], ENZYMES),
    "without any hit in train": (SPLITS[2], "all"),
    "with the proteins that were dropped": (SPLITS[1], "all"),
}
VALID = 1_000  # records on which settings of rankings are chosen, at most
KEY = ["protein_id", "task", "answer"]


@dataclass(frozen=True)
class TrainedRun:
    "What a run left"

    folder: Path
    arm: str
    data: DataConfig
    encoder: EncoderConfig
    unweighted: frozenset  # tasks that its training left out
    draws: int
    seed: int
    train: frozenset  # ids of proteins
    ranking: pd.DataFrame  # `record_id, place, protein_id, nll`, and task, question, answer
    answers: pd.DataFrame


def read_run(folder):
    "The files of a run"
    config = read_json(folder / "config.json")
    data = {k: tuple(v) if isinstance(v, list) else v for k, v in config["data"].items()}
    ranking = pd.read_parquet(folder / "ranking.parquet")
    parts = ranking.record_id.str.split("#", expand=True)
    ranking = ranking.assign(record_id=parts[0], place=parts[1].astype(int), nll=-ranking.score)
    weights = config["train"]["task_weights"]
    return TrainedRun(
        folder,
        config["model"]["arch"],
        DataConfig(**data),
        EncoderConfig(**config["encoder"]),
        frozenset(task for task, weight in weights if not weight),
        config["evaluation"]["draws"],
        config["train"]["seed"],
        frozenset((folder / "train_proteins.txt").read_text().split()),
        ranking.drop(columns="score"),
        pd.read_parquet(folder / "predictions.parquet"),
    )


def read_sequences(manifest):
    "Sequence of each protein of a manifest, by accession"
    proteins = read_set(fetch(manifest) / FASTA).proteins.to_pandas()
    ids = proteins.protein_id.str.split("|").str[1]
    return pd.Series(proteins.sequence.to_numpy(), index=ids)


def read_records(data):
    "Today's records, each with its protein"
    records = pd.read_parquet(build_records(data) / "records.parquet")
    return records.assign(protein_id=records.protein_ids.str[0])


def judged(run, records, sequences):
    "Proteins with `split` (train, test, valid, leaky) and `any_hit`, by today's rule; valid is what is left"
    test = {*run.ranking.protein_id, *run.answers.protein_id}
    unknown = sorted((run.train | test) - {*sequences.index})
    if unknown:
        sys.exit(f"{run.folder}: {len(unknown)} proteins are not in {FASTA}, {unknown[0]} first")
    table = sequences.rename("sequence").rename_axis("protein_id").reset_index()
    split = table.protein_id.map(dict.fromkeys(run.train, "train") | dict.fromkeys(test, "test"))
    with_record = table.protein_id.isin(records.protein_id)
    table = table.assign(split=split.fillna("valid"))[with_record | split.notna()]
    rule = run.data.min_seq_id, run.data.coverage
    table, _ = drop_leaks(table.reset_index(drop=True), *rule)
    is_valid = table.split == "valid"
    near = find_relatives(table[is_valid], table[table.protein_id.isin(test)], *rule)["query"]
    return table.assign(split=table.split.mask(is_valid & table.protein_id.isin(near), "leaky"))


def pooled_features(run, table, wanted):
    "Mean features of some proteins, computed once"
    proteins = table.loc[table.protein_id.isin(wanted), ["protein_id", "sequence"]]
    proteins = proteins.reset_index(drop=True)
    encoder = load_encoder(run.encoder)
    folder = feature_folder(proteins, encoder, residues=False)
    return FeatureStore(build_features(proteins, encoder, folder, residues=False)).pooled()


def valid_records(records, table):
    "Records of the proteins on which settings are chosen, with clusters"
    proteins = table.loc[table.split == "valid", ["protein_id", "sequence"]]
    clusters = cluster_proteins(proteins.reset_index(drop=True))
    of_valid = records[records.protein_id.isin(proteins.protein_id)]
    return of_valid.assign(cluster=of_valid.protein_id.map(clusters)).reset_index(drop=True)


def rankings_of(run, ranked, train, valid, spaces, lengths):
    "Rankings of the run and of the baselines, by system, and the settings"
    of_valid = ranked_records(valid, lengths, OTHERS, VALID, run.seed)
    systems = [s for s in RANKED if s.rpartition("_")[2] in spaces]
    settings = ranked_settings(train, of_valid, spaces, systems)
    found = baseline_scores(train, ranked, spaces, settings)
    by_system = dict(list(found.groupby("system", sort=False)))
    rankings = {run.arm: ranked} | {s: by_system[s] for s in BASELINES if s in by_system}
    return rankings, settings


def statistics_of(run, asked, train, valid, records, spaces, sequences):
    "Statistics of the run's answers and of the baselines', by system, and the settings"
    features = {name: spaces[name] for name in ("feature",) if name in spaces}
    found = answer_by_baselines(train, valid, asked, sequences, features)
    predictions = {run.arm: asked.set_index("record_id").prediction}
    for system, table in found.answers.groupby("system", sort=False):
        predictions[system] = table.set_index("record_id").prediction
    dictionary = frozen_dictionary()
    information = Information(train.answer.tolist(), train.protein_id.tolist(), dictionary)
    true = pd.concat([records[records.protein_id.isin(asked.protein_id)], asked])
    known = known_entities(true.answer.tolist(), true.protein_id.tolist(), dictionary)
    about = known, dictionary, information
    said = {s: p.loc[asked.record_id].tolist() for s, p in predictions.items()}
    return {s: answer_statistics(p, asked, *about) for s, p in said.items()}, found.settings


def answer_results(run, asked, statistics):
    "Scores of answers, and differences of the run's"
    about = asked.set_index("record_id")
    kept = {s: t.loc[about.index] for s, t in statistics.items()}
    groups = about[[c for c in GROUPED if c in about]]
    of_all = about.cluster, ANSWERED, groups, run.draws
    scores = [score_table(s, t, *of_all) for s, t in kept.items()]
    pairs = [(s, kept[s]) for s in AGAINST if s in kept]
    gains = [difference_table(run.arm, s, kept[run.arm], t, *of_all) for s, t in pairs]
    return scores, gains


def results_of(run, ranked, rankings, asked, statistics):
    "Scores and differences over all of some records and by group, as long tables"
    chosen = {s: t[t.record_id.isin(ranked.record_id)] for s, t in rankings.items()}
    pairs = [(run.arm, s, True) for s in AGAINST if s in rankings]
    which, gains = ranking_tables(chosen, ranked[ranked.place == 0], pairs, run.draws)
    scores, lifts = answer_results(run, asked, statistics)
    tables = pd.concat([which, *scores], ignore_index=True), pd.concat([gains, *lifts])
    return tuple(t.dropna(subset="value").reset_index(drop=True) for t in tables)


def all_results(run, table, ranked, rankings, asked, statistics):
    "Scores and differences on each of `SPLITS`"
    clean = table[table.split == "test"]
    hits = dict(
        zip(clean.protein_id, clean.any_hit.map({False: HITS[0], True: HITS[1]}), strict=True)
    )
    own = ranked[ranked.place == 0].set_index("record_id").protein_id
    kept = ranked.assign(hits=ranked.record_id.map(own).map(hits)).dropna(subset="hits")
    answered = asked.assign(hits=asked.protein_id.map(hits)).dropna(subset="hits")
    scores, differences = results_of(run, kept, rankings, answered, statistics)
    whole = results_of(run, ranked, rankings, asked, statistics)
    found = [scores, whole[0], without_hits(scores)]
    results = [results_table(t, split) for t, split in zip(found, SPLITS, strict=True)]
    gains = [t.assign(split=s) for t, s in zip((differences, whole[1]), SPLITS, strict=False)]
    return pd.concat(results, ignore_index=True), pd.concat(gains, ignore_index=True)


def known_today(rows, records):
    "Which rows are records by today's rules"
    now = pd.MultiIndex.from_frame(records[KEY])
    return pd.MultiIndex.from_frame(rows[KEY]).isin(now)


def why_left_out(run, rows, records):
    "Of each record why it is not scored, empty where it is; relatives are judged later"
    why = pd.Series("", rows.index).mask(~known_today(rows, records), "no record by today's rules")
    return why.mask(rows.task.isin(run.unweighted), "of a task that was not trained")


def scored_records(run, records):
    "Ranked records and questions that are scored, and a row for each record there was, with `why` it is left out"
    own = run.ranking[run.ranking.place == 0]
    tables = dict(ranked=own, answered=run.answers)
    rows = [t.assign(kind=kind, why=why_left_out(run, t, records)) for kind, t in tables.items()]
    about = pd.concat(rows)[["kind", "record_id", "protein_id", "task", "why"]]
    kept = [t.record_id[t.why == ""] for t in rows]
    ranked = run.ranking[run.ranking.record_id.isin(kept[0])].reset_index(drop=True)
    asked = run.answers[run.answers.record_id.isin(kept[1])].reset_index(drop=True)
    return ranked, asked, about.reset_index(drop=True)


def with_relatives(about, table):
    "The same, those of proteins with a relative in train left out as well, and `any_hit` of the others"
    of = table.set_index("protein_id").loc[about.protein_id]
    leaky = (of.split == "leaky").to_numpy() & (about.why == "")
    why = about.why.mask(leaky, "a relative in train")
    return about.assign(why=why, any_hit=of.any_hit.to_numpy())


def population(table, rows):
    "Records and proteins of a set: all, those with a relative in train, those without, and of these with a hit"
    of = table.set_index("protein_id").loc[rows.protein_id]
    leaky, hit = (of.split == "leaky").to_numpy(), of.any_hit.to_numpy()
    parts = dict(
        all=leaky | True, relative_in_train=leaky, clean=~leaky, clean_with_hit=~leaky & hit
    )
    return {
        name: dict(records=int(part.sum()), proteins=int(rows.protein_id[part].nunique()))
        for name, part in parts.items()
    }


def spoken(value, low, high, form=".3f"):
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def compared(differences, metric, against, group="all"):
    "What a difference to a baseline supports, in words"
    rows = differences[(differences.metric == metric) & (differences.against == against)]
    row = rows[rows.group == group].iloc[0]
    interval = spoken(row.value, row.low, row.high, "+.3f")
    if row.established:
        return f"{verdict(row)} than {label(against)} ({interval})"
    tests = f" after correction for {row.tests} groups" if row.tests > 1 else ""
    return f"no difference to {label(against)} is established{tests} ({interval})"


def cell(scores, system, metric, task="all"):
    "A score with its interval; empty where there is none"
    rows = scores[(scores.system == system) & (scores.metric == metric) & (scores.task == task)]
    return spoken(*rows.iloc[0][["value", "low", "high"]]) if len(rows) else ""


def markdown(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main_lines(scores):
    "A Markdown table of every system's scores over all records, who wins most pairs first"
    rows = scores[scores.task == "all"]
    won = rows[rows.metric == SHOWN[0]].set_index("system").value
    systems = sorted(dict.fromkeys(rows.system), key=lambda s: -won.get(s, -1))
    lines = [[s.replace("_", " "), *(cell(rows, s, metric) for metric in SHOWN)] for s in systems]
    return markdown(["", *(METRICS[m].label for m in SHOWN)], lines)


def side_lines(arm, scores):
    "A Markdown table of the arm beside ridge on some of the records"
    pairs = [(m, s) for m in (SHOWN[0], ANSWERED[0]) for s in (arm, AGAINST[0])]
    head = ["", *(f"{METRICS[m].label}, {s.replace('_', ' ')}" for m, s in pairs)]
    lines = []
    for name, (split, task) in SIDES.items():
        rows = scores[scores.split == split]
        lines.append([name, *(cell(rows, s, m, task) for m, s in pairs)])
    return markdown(head, lines)


def sizes(scores, task="all"):
    "`667 and 414 records of 343 and 279 clusters`: those ranked, those answered"
    of_task = scores[scores.task == task].drop_duplicates("metric").set_index("metric")
    rows = of_task.loc[[SHOWN[0], ANSWERED[0]]]
    (n, m), (k, j) = rows.n, rows.clusters
    return f"{n:,} ranked of {k:,} clusters and {m:,} answered of {j:,}"


def reads_sentence(arm, scores, differences):
    "Whose answer is it?"
    won, first = SHOWN[:2]
    pairs = "; ".join(compared(differences, won, s) for s in AGAINST)
    unmet = compared(differences, won, AGAINST[0], HITS[0])
    return (
        f"Of two proteins {arm} finds the one that an answer belongs to in {cell(scores, arm, won)} of pairs: "
        f"{pairs}; ridge on composition has {cell(scores, 'composition', won)}, chance is 0.5. "
        f"Of ten it finds it in {cell(scores, arm, first)}: {compared(differences, first, AGAINST[0])}. "
        f"In pairs on the proteins without any hit in train: {unmet}."
    )


def writes_sentence(arm, scores, differences):
    "What are its answers worth?"
    of_words, of_facts = (compared(differences, m, AGAINST[0]) for m in ANSWERED[:2])
    nearest = cell(scores, "nearest_sequence", "rouge_l")
    return (
        f"What it writes has a ROUGE-L of {cell(scores, arm, 'rouge_l')}: {of_words}; the nearest by sequence has "
        f"{nearest}. In information F1: {of_facts}."
    )


def enzyme_sentence(arm, scores, differences):
    "On which task was the arm behind?"
    won, ridge = SHOWN[0], AGAINST[0]
    n = scores[(scores.metric == won) & (scores.task == ENZYMES)].n.iloc[0]
    return (
        f"On the reactions of enzymes ({n} records) it wins {cell(scores, arm, won, ENZYMES)} of pairs and ridge on "
        f"features {cell(scores, ridge, won, ENZYMES)}: {compared(differences, won, ridge, ENZYMES)}; in ROUGE-L: "
        f"{compared(differences, 'rouge_l', ridge, ENZYMES)}."
    )


def population_sentence(counts):
    "Which records these are"
    of, met = counts["both"]["all"], counts["both"]["relative_in_train"]
    rest, hit = counts["both"]["clean"], counts["both"]["clean_with_hit"]
    n_train, n_valid = counts["train"]["proteins"], counts["valid"]["proteins"]
    return (
        f"Of its {of['proteins']:,} test proteins {met['proteins']:,} have a relative among its {n_train:,} train "
        f"proteins by today's rule and are dropped, with {met['records']:,} of {of['records']:,} records; of the "
        f"{rest['proteins']:,} that remain {hit['proteins']:,} have a hit of another span or identity. "
        f"The baselines' settings were chosen on {n_valid:,} proteins without a relative on either side."
    )


def summary(arm, scores, differences, counts):
    "Sentences, one a line; then tables in Markdown"
    rows, gains = (t[t.split == SPLITS[0]] for t in (scores, differences))
    lead = [f(arm, rows, gains) for f in (reads_sentence, writes_sentence, enzyme_sentence)]
    lead.append(population_sentence(counts))
    legend = f"Records: {sizes(rows)}; of enzymes {sizes(rows, ENZYMES)}."
    return "\n".join([*lead, "", main_lines(rows), "", side_lines(arm, scores), "", legend])


def counts_of(run, table, about, ranked, asked, train, valid):
    "How many proteins and records there are"
    own = ranked[ranked.place == 0]
    left_out = about[about.why != ""].groupby(["kind", "why"]).size()
    return dict(
        left_out={kind: left_out[kind].to_dict() for kind in ("ranked", "answered")},
        both=population(table, pd.concat([own, asked])[KEY].drop_duplicates()),
        ranked=population(table, own),
        answered=population(table, asked),
        train=dict(
            proteins=len(run.train), with_record=train.protein_id.nunique(), records=len(train)
        ),
        valid=dict(proteins=valid.protein_id.nunique(), records=len(valid)),
    )


def measured(run):
    "Tables by name, and facts, of a run"
    records, sequences = read_records(run.data), read_sequences(run.data.manifest)
    ranked, asked, about = scored_records(run, records)
    table = judged(run, records, sequences)
    about = with_relatives(about, table)
    train = records[records.protein_id.isin(run.train)].reset_index(drop=True)
    valid = valid_records(records, table)
    ids = [*train.protein_id, *valid.protein_id, *ranked.protein_id, *asked.protein_id]
    spaces = dict(composition=composition(ids, sequences), feature=pooled_features(run, table, ids))
    lengths = sequences.str.len().to_dict()
    rankings, ranked_by = rankings_of(run, ranked, train, valid, spaces, lengths)
    statistics, settings = statistics_of(run, asked, train, valid, records, spaces, sequences)
    scores, differences = all_results(run, table, ranked, rankings, asked, statistics)
    counts = counts_of(run, table, about, ranked, asked, train, valid)
    facts = dict(counts=counts, settings=dict(ranked=ranked_by, answered=settings))
    tables = dict(results=scores, differences=differences, records=about)
    return tables, facts | dict(searched=mmseqs_name())


def write_results(run, out):
    "Measure a run and write what was found"
    tables, facts = measured(run)
    out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        with write_atomic(out / f"{name}.csv") as tmp:
            table.to_csv(tmp, index=False)
    text = summary(run.arm, tables["results"], tables["differences"], facts["counts"])
    with write_atomic(out / "summary.txt") as tmp:
        tmp.write_text(text + "\n")
    origin, config = (read_json(run.folder / f"{name}.json") for name in ("origin", "config"))
    digest = hashlib.sha256((out / "results.csv").read_bytes()).hexdigest()
    about = dict(origin=origin | dict(seed=run.seed), **facts, config=config, table=digest)
    write_json(out / "results.json", about)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "assets" / "smollm2")
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "figures" / "smollm2")
    asked = parser.parse_args()
    write_results(read_run(asked.folder), asked.out)
    print((asked.out / "summary.txt").read_text())


if __name__ == "__main__":
    main()
