"""The benchmark's folder as others read it: `datasets.load_dataset` on every configuration and split.

`python bench/benchmark_folder.py` writes the default split; `--quick` a split of 400 proteins. Asserted: each
configuration of the card loads by its name, with the splits that the card names, and holds row for row what the
Parquet files hold; the records that a card scores are among those of their tasks; no protein of test is in train.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from peers import add_peers

ROOT = Path(__file__).resolve().parent.parent
SMALL = "n_proteins=400 n_test_clusters=40 n_valid_clusters=10"
BARS = dict(rows_that_differ=0, proteins_in_both=0)


def written(folder, quick):
    "The folder, and its tables"
    from protein_llm.apps.benchmark import benchmark_tables, write_benchmark
    from protein_llm.runs.arguments import asked_config
    from protein_llm.runs.data import RunData

    data = RunData(asked_config("tiny", "blind", SMALL if quick else ""), "cpu")
    return write_benchmark(data, folder / "benchmark"), benchmark_tables(data)[0]


def ids(of):
    "Records of a test split, where there is one"
    return of["test"].record_id if "test" in of else ()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="400 proteins")
    asked = parser.parse_args()
    sys.path[:0] = [str(ROOT)]
    add_peers()
    os.environ["HF_HUB_OFFLINE"] = "1"
    from protein_llm.apps.benchmark import SPLIT_NAMES

    rows = differ = 0
    with tempfile.TemporaryDirectory() as d:
        os.environ["HF_DATASETS_CACHE"] = d
        from datasets import get_dataset_config_names, load_dataset

        folder, parts = written(Path(d), asked.quick)
        assert sorted(get_dataset_config_names(str(folder))) == sorted(parts)
        for name, of in parts.items():
            loaded = load_dataset(str(folder), name)
            assert sorted(loaded) == sorted(SPLIT_NAMES[s] for s in of), (name, sorted(loaded))
            for split, table in of.items():
                theirs = loaded[SPLIT_NAMES[split]].to_list()
                ours = json.loads(table.to_json(orient="records"))
                differ += sum(a != b for a, b in zip(theirs, ours, strict=True))
                rows += len(ours)
        both = set(parts["answers"]["test"].sequence) & set(parts["answers"]["train"].sequence)
        tested = {r for name, of in parts.items() if name != "answers" for r in ids(of)}
        assert set(parts["answers"]["test"].record_id) <= tested
    figures = dict(configurations=len(parts), rows=rows)
    figures |= dict(rows_that_differ=differ, proteins_in_both=len(both))
    ok = all(figures[name] <= bar for name, bar in BARS.items())
    print(json.dumps(dict(bench="benchmark_folder", figures=figures, bars=BARS, ok=ok)))
    sys.exit(not ok)


if __name__ == "__main__":
    main()
