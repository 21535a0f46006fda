#!/usr/bin/env bash
# What a GPU says of this package, in at most eight minutes: scripts/on_gpu.sh [FOLDER] [--rehearse]
#
# Writes FOLDER/on_gpu.json (by default into $OUT, else ./on_gpu) after every step, so that a run that is cut off has
# told what it knew. Without a GPU it writes why it was skipped, and ends with 0. --rehearse does every step on a CPU,
# with a small model, to test the script.
#
# The machine needs Python 3.12 with torch, accelerate, peft and pytest; no network. What else is missing is carried as
# wheels in wheels/, which git ignores. Fill it where there is a network, for the machine's Python:
#
#   pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#     --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d wheels \
#     'transformers==5.23.*' 'trl==1.16.*' 'datasets==5.2.*' dill multiprocess xxhash \
#     'httpx2>=2.16' httpcore2 truststore pydantic==2.14.4 pydantic-core==2.50.5 annotated-types typing-inspection
#
# These are about 18 MiB; pydantic names the one version of pydantic-core that it takes. They are installed into a temporary folder
# and come first on Python's path; nothing of the machine is changed.
set -euo pipefail
cd "$(dirname "$0")/.."

out="${OUT:-on_gpu}"
if [[ $# -gt 0 && "$1" != --* ]]; then
    out="$1"
    shift
fi
mkdir -p "$out"
python="${PYTHON:-python3}"
path="$PWD/src:$PWD:$PWD/tests"
if compgen -G "wheels/*.whl" > /dev/null; then
    site="$(mktemp -d)"
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" wheels/*.whl
    path="$site:$path"
fi
export PYTHONPATH="$path${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
"$python" scripts/on_gpu.py "$out" "$@"
