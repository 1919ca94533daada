#!/usr/bin/env bash
# All that is asked of a GPU, in at most 8 minutes on an H100 or H200: captured graphs beside eager updates for
# every agent (tests), then rates and memory. Options go to gpu.py; `--device cpu` tries it without a GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PY="${PY:-.venv/bin/python}"

if [[ " $* " != *" --device cpu "* ]]; then
    "$PY" -m pytest -q -m gpu tests/training/test_compilation.py
fi
"$PY" benchmarks/speed/gpu.py "$@"
