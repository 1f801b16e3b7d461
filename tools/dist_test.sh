#!/usr/bin/env bash
# Evaluate a checkpoint with several processes on each of one or more machines, on GPUs or CPUs:
#   tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]
# PROCESSES is their number on this machine, one a GPU. On several machines run it on each with
# NNODES (number of machines), NODE_RANK (0 ... NNODES-1), MASTER_ADDR (address of machine 0) and PORT.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT PROCESSES [options of tools/test.py]" >&2
    exit 2
fi
CONFIG=$1 CHECKPOINT=$2 PROCESSES=$3
shift 3

exec "${PYTHON:-python}" "$(dirname "$0")/torchrun.py" \
    --nnodes="${NNODES:-1}" \
    --node-rank="${NODE_RANK:-0}" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" \
    --master-port="${PORT:-29500}" \
    --nproc-per-node="$PROCESSES" \
    "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "$@"
