#!/usr/bin/env bash
# Train a detector with several processes on each of one or more machines, on GPUs or CPUs:
#   tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
# PROCESSES is their number on this machine, one a GPU. On several machines run it on each with
# NNODES (number of machines), NODE_RANK (0 ... NNODES-1), MASTER_ADDR (address of machine 0) and PORT.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG PROCESSES [options of tools/train.py]" >&2
    exit 2
fi
CONFIG=$1 PROCESSES=$2
shift 2

exec "${PYTHON:-python}" "$(dirname "$0")/torchrun.py" \
    --nnodes="${NNODES:-1}" \
    --node-rank="${NODE_RANK:-0}" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" \
    --master-port="${PORT:-29500}" \
    --nproc-per-node="$PROCESSES" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "$@"
