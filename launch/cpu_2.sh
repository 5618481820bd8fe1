#!/bin/sh
# Two processes on the CPUs of this machine (gloo): launch/cpu_2.sh --preset tiny --arch mlp processes=2 shard=full.
# `accelerate launch --cpu` would start one only.
set -eu
PYTHON="${PYTHON:-.venv/bin/python}"
case " $* " in *" -h "* | *" --help "*) exec "$PYTHON" -m protein_llm.training.train --help ;; esac
WORLD_SIZE=2 "$PYTHON" -m protein_llm.training.train --check "$@" # a mistyped word ends here, in a second
exec "$PYTHON" -m torch.distributed.run --standalone --nproc-per-node 2 -m protein_llm.training.train "$@"
