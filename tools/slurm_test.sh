#!/usr/bin/env bash
# Evaluate a checkpoint under Slurm, on one node or several; srun starts one torchrun a node.
# tools/slurm.sh says which variables (GPUS, GPUS_PER_NODE, PORT, ...) it reads.
set -euo pipefail

USAGE='PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]'
# shellcheck source=tools/slurm.sh
. "$(dirname "$0")/slurm.sh"
on_each_node "$(dirname "$0")/dist_test.sh" "$CONFIG" "$FOURTH" "$GPUS_PER_NODE" "$@"
