#!/usr/bin/env bash
# All that is done with the kernels on a GPU: build them in place, test them, run them under compute-sanitizer, time them.
# Needs nvcc, compute-sanitizer, pytest and a PyTorch with CUDA, but no network. Takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
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
    "$PYTHON" -m tests.gpu.exercise
done

echo "== times"
"$PYTHON" -m cuda_ext.bench
