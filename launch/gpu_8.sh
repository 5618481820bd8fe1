#!/bin/sh
# Eight GPUs of one machine: launch/gpu_8.sh --preset qwen3_8b --arch flamingo shard=full.
# Add checkpoint_activations=True where memory is short.
set -eu
PYTHON="${PYTHON:-.venv/bin/python}"
case " $* " in *" -h "* | *" --help "*) exec "$PYTHON" -m protein_llm.training.train --help ;; esac
WORLD_SIZE=8 "$PYTHON" -m protein_llm.training.train --check "$@" # a mistyped word ends here, in a second
exec "$PYTHON" -m accelerate.commands.launch --multi_gpu --num_processes 8 --num_machines 1 \
    --mixed_precision no --dynamo_backend no -m protein_llm.training.train "$@"
