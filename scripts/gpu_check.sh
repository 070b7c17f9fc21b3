#!/usr/bin/env bash
# Everything that needs a GPU: builds the kernels in place, tests them, runs them under compute-sanitizer, times them.
# Needs nvcc, compute-sanitizer, pytest and a PyTorch with CUDA; no network. A few minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}

echo "== build"
time "$PYTHON" -m cuda_ext.build

echo "== tests"
# Without the fixtures of the whole project: they want Redis and ffmpeg, the kernels want neither.
"$PYTHON" -m pytest --noconftest -q tests/gpu tests/cuda_ext

for tool in memcheck racecheck; do
  echo "== compute-sanitizer $tool"
  # Every tensor an allocation of its own, so that the first element past its end is one too many.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 9 \
    "$PYTHON" -m scripts.exercise_kernels
done

echo "== times"
"$PYTHON" -m scripts.time_kernels
