#!/bin/sh
# A sweep as an array of Slurm jobs, each a part of the points (docs/sweep.md):
#   cptr sweep --job-script > sweep.sh
#   sbatch --array=1-8 sweep.sh FILE.toml --out NAME
#   cptr merge NAME.*-of-8.journal --out NAME      when all have ended
# A task that was stopped goes on where it was when it is queued again. To run task 3 of 8 alone once more:
#   sbatch --array=3 sweep.sh FILE.toml --out NAME --shard 3/8
#SBATCH --job-name=cptr-sweep
#SBATCH --array=1-8
#SBATCH --cpus-per-task=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log
export RAYON_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
exec "${CPTR:-cptr}" sweep "$@"
