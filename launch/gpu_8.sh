#!/bin/sh
# Eight GPUs of one machine: launch/gpu_8.sh --preset qwen3_8b --arch flamingo shard=full. Add checkpoint_activations=True where memory is short.
exec "${PYTHON:-.venv/bin/python}" -m accelerate.commands.launch --multi_gpu --num_processes 8 --num_machines 1 --mixed_precision no --dynamo_backend no -m protein_llm.train "$@"
