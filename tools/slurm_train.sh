#!/usr/bin/env bash
# Train a detector under Slurm, on one node or several; srun starts one torchrun a node.
# tools/slurm.sh says which variables (GPUS, GPUS_PER_NODE, PORT, ...) it reads.
set -euo pipefail

LEAST=4 USAGE='PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]'
# shellcheck source=tools/slurm.sh
. "$(dirname "$0")/slurm.sh"
CONFIG=$1 WORK_DIR=$2
shift 2
on_each_node "$(dirname "$0")/dist_train.sh" "$CONFIG" "$GPUS_PER_NODE" --work-dir "$WORK_DIR" "$@"
