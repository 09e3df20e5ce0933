#!/usr/bin/env bash
# An array of jobs, each with its share of a suite; submit it with: sbatch docs/slurm.sh
# A job that was killed or preempted is queued again and goes on where it stopped.
#SBATCH --job-name=compatbench
#SBATCH --array=1-16
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail

# Folders that all jobs see.
shared=${COMPATBENCH_SHARED:?set it to a folder that all jobs see}
export COMPATBENCH_CACHE="$shared/cache"
export COMPATBENCH_DATA="$shared/data"

compatbench run --suite paper --methods all \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" \
    --out "$shared/paper" \
    --timeout 2h --retry 1 \
    --offline
