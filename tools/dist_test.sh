#!/usr/bin/env bash
# Evaluate a detector with several processes on each of one or more machines, on GPUs or CPUs:
#   tools/dist_test.sh {WORK_DIR | CONFIG CHECKPOINT} PROCESSES [options of tools/test.py]
# PROCESSES is their number on this machine, one a GPU. On several machines run it on each with
# NNODES (number of machines), NODE_RANK (0 ... NNODES-1), MASTER_ADDR (address of machine 0) and PORT.
set -euo pipefail

DETECTOR=()
while [ ${#DETECTOR[@]} -lt 2 ] && [[ ! ${1-0} =~ ^[0-9]+$ ]]; do
    DETECTOR+=("$1")
    shift
done
if [ ${#DETECTOR[@]} -eq 0 ] || [[ ! ${1-} =~ ^[0-9]+$ ]]; then
    echo "usage: $0 {WORK_DIR | CONFIG CHECKPOINT} PROCESSES [options of tools/test.py]" >&2
    exit 2
fi
PROCESSES=$1
shift

exec "${PYTHON:-python}" "$(dirname "$0")/torchrun.py" \
    --nnodes="${NNODES:-1}" \
    --node-rank="${NODE_RANK:-0}" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" \
    --master-port="${PORT:-29500}" \
    --nproc-per-node="$PROCESSES" \
    "$(dirname "$0")/test.py" "${DETECTOR[@]}" --launcher pytorch "$@"
