#!/bin/sh
# One process on one GPU: launch/gpu_1.sh --preset qwen3_4b --arch mlp processes=1
exec env CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-0}" \
    "${PYTHON:-.venv/bin/python}" -m protein_llm.training.train "$@"
