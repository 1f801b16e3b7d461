#!/usr/bin/env bash
# Evaluate a detector under Slurm, on one node or several; srun starts one torchrun a node.
# tools/slurm.sh says which variables (GPUS, GPUS_PER_NODE, PORT, ...) it reads.
set -euo pipefail

LEAST=3 USAGE='PARTITION JOB_NAME {WORK_DIR | CONFIG CHECKPOINT} [options of tools/test.py]'
# shellcheck source=tools/slurm.sh
. "$(dirname "$0")/slurm.sh"
DETECTOR=("$1")
shift
if [ $# -gt 0 ] && [[ $1 != -* ]]; then
    DETECTOR+=("$1")
    shift
fi
on_each_node "$(dirname "$0")/dist_test.sh" "${DETECTOR[@]}" "$GPUS_PER_NODE" "$@"
