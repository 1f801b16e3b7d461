#!/usr/bin/env bash
# Evaluate a checkpoint under Slurm, on one node or several; srun starts one torchrun a node:
#   tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
# tools/slurm.sh says which variables (GPUS, GPUS_PER_NODE, PORT, ...) it reads.
set -euo pipefail

if [ $# -lt 4 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]" >&2
    exit 2
fi
PARTITION=$1 JOB_NAME=$2 CONFIG=$3 CHECKPOINT=$4
shift 4

# shellcheck source=tools/slurm.sh
. "$(dirname "$0")/slurm.sh"
on_each_node "$(dirname "$0")/dist_test.sh" "$CONFIG" "$CHECKPOINT" "$GPUS_PER_NODE" "$@"
