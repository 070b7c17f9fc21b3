#!/bin/sh
# Writes docker/requirements-*.txt anew: the packages of the images, to the version and the hash. Needs uv.
# The CPU worker's PyTorch comes from the folder PIP_FIND_LINKS if that is set, otherwise from the index TORCH_INDEX.
# The default of TORCH_INDEX is PyTorch's own index.
set -eu
cd "$(dirname "$0")/.."

lock() { # lock NAME OPTIONS...
  name=$1; shift
  echo "docker/requirements-$name.txt"
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade --constraints constraints.txt \
    --custom-compile-command "make lock" --output-file "docker/requirements-$name.txt" "$@"
}

if [ -n "${PIP_FIND_LINKS:-}" ]; then
  cpu_torch="--find-links $PIP_FIND_LINKS"
else
  cpu_torch="--index ${TORCH_INDEX:-https://download.pytorch.org/whl/cpu} --index-strategy unsafe-best-match"
fi
torch=$(sed -n 's/^torch==//p' constraints.txt)
work=build/lock # the name must not change: it is written into the file
mkdir -p "$work"
echo 'setuptools>=77' >"$work/build.in"
echo "torch==$torch+cpu" >"$work/torch-cpu.txt"

lock build "$work/build.in" --no-annotate
lock service pyproject.toml --extra service --extra otel --extra s3
lock worker pyproject.toml --extra service --extra worker --extra otel --extra s3
# shellcheck disable=SC2086  # two words, or three
lock worker-cpu pyproject.toml --extra service --extra worker --extra otel --extra s3 --overrides "$work/torch-cpu.txt" $cpu_torch
if [ "$(sed -n '/^torch==/,/#/p' docker/requirements-worker-cpu.txt | grep -c sha256)" -lt 2 ]; then
  echo "PyTorch has a single wheel where this lock was made: images of worker-cpu can be built for that platform alone." \
    "PyTorch's own index has those of x86 and of arm64" >&2
fi
