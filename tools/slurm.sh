# shellcheck shell=bash
# What slurm_train.sh and slurm_test.sh share; they read it in with their own arguments, which USAGE
# names, at least $LEAST of them. Sets PARTITION and JOB_NAME, leaves the others, and sets GPUS_PER_NODE
# from GPUS.
# GPUS (all nodes together, default 8), GPUS_PER_NODE (default 8), CPUS_PER_TASK (a node, default 5 a
# process), PORT, and SRUN_ARGS for further arguments of srun. GRES replaces gpu:<GPUS_PER_NODE>;
# set to nothing, processes run on CPUs.

if [ $# -lt "$LEAST" ]; then
    echo "usage: $0 $USAGE" >&2
    exit 2
fi
PARTITION=$1 JOB_NAME=$2
shift 2

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

# Run a command once on each node, with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
on_each_node() {
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
            exec "$@"' node "$@"
}
