#!/bin/sh
#SBATCH --job-name=protein_llm --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 --cpus-per-task=64 --exclusive
#SBATCH --time=24:00:00 --signal=TERM@120 --requeue
# Two machines with eight GPUs each: sbatch launch/slurm_2_nodes.sh --preset qwen3_8b --arch flamingo \
#     processes=16 shard=full
# The repository, its .venv and runs/ must be on a file system that both machines see.
# A job that is stopped and queued again goes on from its last checkpoint.
set -eu
MASTER=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER PYTHON="${PYTHON:-.venv/bin/python}"
# a mistyped word ends here, in a second
WORLD_SIZE=$((8 * SLURM_NNODES)) "$PYTHON" -m protein_llm.training.train --check "$@"
srun sh -c '"$PYTHON" -m accelerate.commands.launch --multi_gpu --num_machines "$SLURM_NNODES" \
    --num_processes $((8 * SLURM_NNODES)) --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$MASTER" --main_process_port 29500 \
    --mixed_precision no --dynamo_backend no -m protein_llm.training.train "$@"' sh "$@"
