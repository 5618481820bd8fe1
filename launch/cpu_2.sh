#!/bin/sh
# Two processes on the CPUs of this machine (gloo): launch/cpu_2.sh --preset tiny --arch mlp processes=2 shard=full. `accelerate launch --cpu` would start one only.
exec "${PYTHON:-.venv/bin/python}" -m torch.distributed.run --standalone --nproc-per-node 2 -m protein_llm.train "$@"
