#!/usr/bin/env bash
# Train a detector under Slurm, on one node or several; srun starts one torchrun a node:
#   tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]
# GPUS (all nodes together, default 8), GPUS_PER_NODE (default 8), CPUS_PER_TASK (a node, default 5 a
# process), PORT, and SRUN_ARGS for further arguments of srun. GRES replaces gpu:<GPUS_PER_NODE>;
# set to nothing, processes run on CPUs.
set -euo pipefail

if [ $# -lt 4 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]" >&2
    exit 2
fi
PARTITION=$1 JOB_NAME=$2 CONFIG=$3 WORK_DIR=$4
shift 4

GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
if [ "$GPUS" -lt "$GPUS_PER_NODE" ]; then
    GPUS_PER_NODE=$GPUS
fi
if [ $((GPUS % GPUS_PER_NODE)) -ne 0 ]; then
    echo "$0: error: GPUS=$GPUS is not a multiple of GPUS_PER_NODE=$GPUS_PER_NODE." >&2
    exit 2
fi
export NNODES=$((GPUS / GPUS_PER_NODE))
PORT=${PORT:-29500}
export PORT
GRES=${GRES-gpu:$GPUS_PER_NODE}

# shellcheck disable=SC2086  # SRUN_ARGS holds several words
# shellcheck disable=SC2016  # each node expands the variables itself
exec srun --partition="$PARTITION" --job-name="$JOB_NAME" \
    --nodes="$NNODES" --ntasks="$NNODES" --ntasks-per-node=1 \
    ${GRES:+--gres="$GRES"} \
    --cpus-per-task="${CPUS_PER_TASK:-$((5 * GPUS_PER_NODE))}" \
    --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    bash -c '
        export NODE_RANK=$SLURM_NODEID
        MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
        export MASTER_ADDR
        exec "$@"' node \
    "$(dirname "$0")/dist_train.sh" "$CONFIG" "$GPUS_PER_NODE" --work-dir "$WORK_DIR" "$@"
