#!/usr/bin/env bash
# Train a detector under Slurm, on one node or several; srun starts one torchrun a node:
#   tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]
# tools/slurm.sh says which variables (GPUS, GPUS_PER_NODE, PORT, ...) it reads.
set -euo pipefail

if [ $# -lt 4 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]" >&2
    exit 2
fi
PARTITION=$1 JOB_NAME=$2 CONFIG=$3 WORK_DIR=$4
shift 4

# shellcheck source=tools/slurm.sh
. "$(dirname "$0")/slurm.sh"
on_each_node "$(dirname "$0")/dist_train.sh" "$CONFIG" "$GPUS_PER_NODE" --work-dir "$WORK_DIR" "$@"
