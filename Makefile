# Two commands matter: `make reproduce` and `make test`. Each does its own set-up.
BIN := .venv/bin
export JUPYTER_PREFER_ENV_PATH = 1
# waiting threads soon give up their core, so that two notebooks at once do not slow each other down
export GOMP_SPINCOUNT = 3000

.DEFAULT_GOAL := help
.PHONY: help setup reproduce test experiments grid search downstream downstream-more levers grpo figures smollm2 smollm2-tasks lab readme outputs docs blog test-browser lock bench-env clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: ## .venv as requirements.lock says, and the small weights; every other command does it first
	@scripts/setup.sh

reproduce: setup ## the experiment: corpus, features, five trainings, evaluation, figures, report
	@$(BIN)/python scripts/reproduce.py reproduce

test: setup ## all tests
	@$(BIN)/python .ci/test.py

experiments: setup ## every arm on all proteins, into figures/tiny_all/ (two hours), then the grid (a day)
	@GRID_GROUPS="$(groups)" GRID_JOBS="$(jobs)" $(BIN)/python scripts/reproduce.py experiments

grid: setup ## does more data help, which bridge, why does a loss fall: a grid of runs, into figures/experiments/ (hours); one question: make grid groups=seeds
	@GRID_GROUPS="$(groups)" GRID_JOBS="$(jobs)" $(BIN)/python scripts/reproduce.py grid

search: setup ## what makes an arm read: one change at a time, on validation proteins; its table into figures/ (about an hour)
	@$(BIN)/python scripts/reproduce.py search

downstream: setup ## GO functions, EC, stability and interaction asked of the default run's arms, into figures/downstream/
	@$(BIN)/python scripts/reproduce.py downstream

downstream-more: setup ## likewise GO components and processes, and location
	@$(BIN)/python scripts/reproduce.py downstream-more

levers: setup ## what holds an arm back in GO terms: steps, proteins, tokens, rank, one at a time, into figures/ (about an hour)
	@$(BIN)/python scripts/reproduce.py levers

grpo: setup ## training by rewards (GO terms, EC numbers) against its controls, three seeds, into figures/grpo/
	@$(BIN)/python scripts/reproduce.py grpo

figures: setup ## the default run's figures into figures/, to be committed
	@$(BIN)/python scripts/reproduce.py figures

smollm2: setup ## the second table, of a larger language model, from assets/smollm2 into figures/smollm2 (half an hour)
	@$(BIN)/python scripts/smollm2.py

smollm2-tasks: setup ## downstream tasks asked of that larger language model's arm, into figures/downstream/smollm2 (about an hour)
	@$(BIN)/python scripts/smollm2_tasks.py

lab: setup ## JupyterLab on the front page; arguments as in: make lab args="--port 8899"
	@exec $(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/nbs/index.ipynb $$([ "$$(id -u)" != 0 ] || echo --allow-root) $(args)

readme: setup ## README.md from nbs/index.ipynb, RESULTS.md from nbs/results.ipynb
	@$(BIN)/python scripts/readme.py

docs: setup ## the default run's executed notebooks as pages into docs/, to be committed
	@$(BIN)/python scripts/docs.py

blog: setup ## the post from committed tables into docs/post/, to be committed (seconds)
	@$(BIN)/python scripts/blog.py

test-browser: setup ## the post, the page of serve and the panel used in Chromium, on a screen and on a telephone (if there is one)
	@$(BIN)/python .ci/browser.py
	@$(BIN)/python .ci/browser_ask.py

outputs: setup ## run the library notebooks and store what their examples show
	@$(BIN)/python scripts/outputs.py

lock: setup ## resolve settings.ini anew into requirements.lock
	@$(BIN)/uv pip compile setup.py --extra dev --universal --python-version 3.12 --generate-hashes --no-header --no-annotate --quiet -o requirements.lock

bench-env: setup ## .venv-bench: what the benchmarks compare with (bench/requirements.txt)
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .venv-bench
	@$(BIN)/uv pip install --quiet --python .venv-bench/bin/python -r bench/requirements.txt

clean: ## delete compiled files, and list what lies in runs/
	@python=$(BIN)/python; [ -x $$python ] || python=python3; exec $$python scripts/clean.py
