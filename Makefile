# Two commands matter: `make reproduce` and `make test`. Each does its own set-up.
BIN := .venv/bin
RUN := $(BIN)/papermill --no-progress-bar --log-level ERROR --stdout-file - --stderr-file -
export JUPYTER_PREFER_ENV_PATH = 1
# waiting threads soon give up their core, so that two notebooks at once do not slow each other down
export GOMP_SPINCOUNT = 3000

.DEFAULT_GOAL := help
.PHONY: help setup reproduce test experiments lab readme lock bench-env clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup:
	@.ci/setup.sh

reproduce: setup ## the experiment: corpus, features, five trainings, evaluation, figures, report
	@.ci/reproduce.sh

test: setup ## all tests
	@$(BIN)/python .ci/test.py

experiments: setup ## every arm for 1,000 steps with a report below runs/experiments, three seeds of the default, and a split that leaks on purpose (about 90 minutes)
	@mkdir -p runs/notebooks
	@$(RUN) nbs/05_figures.ipynb runs/notebooks/experiments.ipynb -p steps 1000 -p folder runs/experiments/figures -p report runs/experiments/report
	@$(RUN) nbs/04_evaluate.ipynb runs/notebooks/experiments-seeds.ipynb -p n_seeds 3
	@$(RUN) nbs/04_evaluate.ipynb runs/notebooks/experiments-exact.ipynb -p split exact

lab: setup ## JupyterLab on the notebooks
	@$(BIN)/jupyter lab nbs

readme: setup ## README.md from nbs/index.ipynb
	@$(BIN)/python .ci/readme.py

lock: setup ## resolve settings.ini anew into requirements.lock
	@$(BIN)/uv pip compile setup.py --extra dev --universal --python-version 3.12 --generate-hashes --no-header --no-annotate --quiet -o requirements.lock

bench-env: setup ## .venv-bench: what the benchmarks compare with (bench/requirements.txt)
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .venv-bench
	@$(BIN)/uv pip install --quiet --python .venv-bench/bin/python -r bench/requirements.txt

clean: ## delete what can be made again: runs/, caches and temporary files (.venv stays)
	@rm -rf runs build dist protein_llm.egg-info
	@find nbs protein_llm .ci \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
