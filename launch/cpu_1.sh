#!/bin/sh
# One process, on the CPU. Usage, here as in all of these: launch/cpu_1.sh CONFIG.json, or
# launch/cpu_1.sh --preset tiny --arch mlp steps=100
exec "${PYTHON:-.venv/bin/python}" -m protein_llm.training.train "$@"
