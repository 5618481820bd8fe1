"""Downstream tasks put to the trained arm of a larger language model, beside baselines on the same proteins.

`make smollm2-tasks` reads assets/smollm2 (the run's train proteins, and its weights: manifest smollm2_mlp) and writes
figures/downstream/smollm2. Train, test and validation proteins are those of scripts/smollm2.py: by today's rule no
test protein has a relative among those that the arm was trained on. There is no `blind` of this language model, so an
arm's score of an answer is its log-likelihood less its own mean over validation records. Products are computed with
factors rounded to bfloat16 where the processor has units for that, which moves a log-likelihood by up to 0.1."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from smollm2 import ROOT, judged, read_records, read_run, read_sequences

from protein_llm.core import read_json, run_folder
from protein_llm.data.manifest import fetch
from protein_llm.data.split import cluster_proteins
from protein_llm.evaluation.downstream import (
    Arm,
    Features,
    Limits,
    headline_of,
    measure_task,
)
from protein_llm.evaluation.probes import bridge_tokens
from protein_llm.evaluation.task_data import TaskData, stores_for
from protein_llm.model import ProteinLLM, ProteinProcessor
from protein_llm.reporting.downstream import (
    fig_task,
    items_of,
    save_task,
    task_claims,
    task_table,
)
from protein_llm.tasks.all_tasks import task_named

TASKS = ("go", "go_component", "ec", "location")
VOTED = ("go", "go_component")  # of these the arm also writes answers at random
# a likelihood takes seconds a record on two cores
LIMITS = Limits(test=250, valid=100, choices=60, written=30, samples=16, max_new_tokens=32)


def proteins_of(run):
    "Proteins of the run with their split by today's rule, and a cluster each"
    records = read_records(run.data)
    table = judged(run, records, read_sequences(run.data.manifest))
    table = table[table.split.isin(("train", "valid", "test"))].reset_index(drop=True)
    held = table[table.split != "train"].reset_index(drop=True)
    clusters = cluster_proteins(held[["protein_id", "sequence"]])
    # train proteins are drawn from by no bootstrap
    return table.assign(cluster=table.protein_id.map(clusters).fillna(table.protein_id))


def measured(task, proteins, model, processor, arm):
    "One task"
    items = items_of(task, proteins, LIMITS)
    stores = stores_for(items.proteins, processor)
    data = TaskData(items.records, items.proteins, processor, stores)
    ids = items.proteins.protein_id.tolist()
    tokens = bridge_tokens(model.bridge, stores, ids)  # what the language model is handed
    features = Features(dict(feature=stores.pooled(), tokens=tokens))
    kept = run_folder("shared") / f"downstream-smollm2-{task.name}"
    limits = LIMITS if task.name in VOTED else replace(LIMITS, samples=0)
    return measure_task(task, items, {arm: Arm(model, data)}, features, kept, limits), items


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", default=",".join(TASKS), help="names, a comma between two")
    parser.add_argument("--out", default=ROOT / "figures" / "downstream" / "smollm2", type=Path)
    asked = parser.parse_args()
    torch.set_float32_matmul_precision("medium")
    run = read_run(ROOT / "assets" / "smollm2")
    origin = read_json(ROOT / "assets" / "smollm2" / "origin.json")
    proteins, folder = proteins_of(run), fetch("smollm2_mlp")
    model = ProteinLLM.from_pretrained(folder)
    processor = ProteinProcessor.from_pretrained(folder)
    for name in asked.tasks.split(","):
        task = task_named(name)
        found, items = measured(task, proteins, model, processor, run.arm)
        headline = headline_of(task)
        save_task(found, asked.out, items, fig_task(found, headline), origin)
        print(f"{task.label}: {found.facts}")
        print(task_table(found).iloc[:, :4].to_string())
        print("\n".join(task_claims(found, headline)), flush=True)


if __name__ == "__main__":
    main()
