"""Our tasks in lm-eval against our own numbers, for the bare language model of the default.

`python bench/lm_eval_tasks.py` takes up to 60 test records a task of the default split, `--quick` up to 8.
lm-eval runs in its own process as anybody would run it: `--model hf`, float32, `--apply_chat_template`. Asserted for
every metric of every task: |theirs - ours| <= 1e-6.

Ours, written: `ProteinProcessor` and `ProteinLLM.generate` of the arm `text` without LoRA, scored over the whole table
by `answer_statistics` or `task_statistics`. Ours, by choice: log-probabilities of the same letters by one forward
pass without batches. lm-eval counts the line break behind the chat template to the answer, and no end token; ours do
here as it does. `end_and_no_break` is how much accuracy differs when the answer is what our cards take it for.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from peers import peer_program

ROOT = Path(__file__).resolve().parent.parent
BAR = 1e-6


def harness(folder, limit, out):
    "Results of lm-eval by task"
    model = f"pretrained={ROOT / 'assets' / 'tiny_lm'},dtype=float32"
    call = [peer_program("lm_eval"), "--model", "hf", "--model_args", model]
    call += [
        "--tasks",
        "protein_llm",
        "--include_path",
        folder / "lm_eval",
        "--apply_chat_template",
    ]
    call += ["--limit", str(limit), "--batch_size", "1", "--device", "cpu", "--output_path", out]
    env = dict(os.environ, PYTHONPATH=str(ROOT), HF_HUB_OFFLINE="1", HF_DATASETS_CACHE=str(out))
    subprocess.run(list(map(str, call)), check=True, env=env)
    (results,) = out.rglob("results_*.json")
    return json.loads(results.read_text())["results"]


def tables(folder, limit):
    "Test records by configuration, as many as lm-eval takes"
    import pandas as pd

    paths = sorted(folder.glob("data/*/test.parquet"))
    return {p.parent.name: pd.read_parquet(p).head(limit) for p in paths}


def bare_model():
    from protein_llm.config import from_preset
    from protein_llm.model import ProteinProcessor, build_model
    from protein_llm.text.prompts import load_tokenizer

    cfg, tokenizer = from_preset("tiny", "text", lora_r=0).model, load_tokenizer()
    return build_model(cfg, 0, tokenizer).eval(), ProteinProcessor(tokenizer, asdict(cfg))


def written_scores(name, records, model, processor):
    "Metrics of greedy answers, computed over the whole table"
    from protein_llm.apps.harness import ANSWERS, written_metrics
    from protein_llm.scoring.table import METRICS, answer_statistics
    from protein_llm.tasks.all_tasks import task_named
    from protein_llm.tasks.task import task_statistics

    answers = []
    for record in records.itertuples():
        written, _ = model.generate(processor([record.instruction], [record.sequence]))
        answers += processor.decode(written)
    if name == ANSWERS:
        table = answer_statistics(answers, records)
    else:
        table = task_statistics(task_named(name), records, answers)
    table = table.assign(records=1.0)
    metrics = [METRICS[m] for m in written_metrics(name)]
    return {m.name: float(m.score(table[list(m.columns)].to_numpy(float).sum(0))) for m in metrics}


def log_likelihood(model, tokenizer, prompt, answer, ends):
    "Of an answer behind a prompt, nats; `ends`: with the end token and without the line break before it"
    import torch

    turn = [dict(role="user", content=prompt)]
    before = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    given = before if ends else before.rstrip()
    whole = before + answer + (tokenizer.eos_token if ends else "")
    start = len(tokenizer(given, add_special_tokens=False).input_ids)
    ids = torch.tensor([tokenizer(whole, add_special_tokens=False).input_ids])
    with torch.no_grad():
        logits = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
    return logits.gather(1, ids[0, start:, None]).sum().item()


def chosen_accuracy(name, records, llm, tokenizer, ends):
    "How often the right place has the highest log-likelihood"
    from protein_llm.apps.harness import prompt_of, which_prompts

    right = 0
    for record in records.to_dict("records"):
        if name == "which_protein":
            pairs = [(prompt, record["answer"]) for prompt in which_prompts(record)]
        else:
            pairs = [(prompt_of(record), choice) for choice in record["choices"]]
        found = [log_likelihood(llm, tokenizer, *pair, ends) for pair in pairs]
        right += max(range(len(found)), key=found.__getitem__) == record["label"]
    return right / len(records)


def compare(theirs, records):
    "The largest difference of each task; how much accuracy depends on where an answer begins and ends"
    from transformers import AutoModelForCausalLM

    from protein_llm.text.prompts import llm_folder

    model, processor = bare_model()
    llm = AutoModelForCausalLM.from_pretrained(llm_folder(), dtype="float32").eval()
    worst, shift = {}, {}
    for task, found in theirs.items():
        name = task.removeprefix("protein_")
        if name not in records:
            continue  # the group's own line
        if name == "which_protein" or name.endswith("_choice"):
            about = (name, records[name], llm, processor.tokenizer)
            ours = dict(acc=chosen_accuracy(*about, ends=False))
            shift[name] = abs(ours["acc"] - chosen_accuracy(*about, ends=True))
        else:
            ours = written_scores(name, records[name], model, processor)
        worst[name] = max(abs(found[f"{metric},none"] - value) for metric, value in ours.items())
    return worst, shift


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="8 records a task")
    asked = parser.parse_args()
    peer_program("lm_eval")  # or end, before anything is written
    sys.path[:0] = [str(ROOT)]
    from protein_llm.apps.benchmark import write_benchmark
    from protein_llm.runs.arguments import asked_config
    from protein_llm.runs.data import RunData

    limit = 8 if asked.quick else 60
    with tempfile.TemporaryDirectory() as d:
        folder = write_benchmark(RunData(asked_config("tiny", "blind"), "cpu"), Path(d) / "data")
        records = tables(folder, limit)
        theirs = harness(folder, limit, Path(d) / "out")
        worst, shift = compare(theirs, records)
    assert len(worst) == 6, f"six tasks were to be compared, not {sorted(worst)}"
    figures = dict(difference=max(worst.values()), by_task=worst, end_and_no_break=shift)
    ok = figures["difference"] <= BAR
    print(
        json.dumps(dict(bench="lm_eval_tasks", figures=figures, bars=dict(difference=BAR), ok=ok))
    )
    sys.exit(not ok)


if __name__ == "__main__":
    main()
