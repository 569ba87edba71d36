#!/usr/bin/env bash
# Runs the battery from a pack that tools/pack_gpu.sh made, without installing anything:
#
#   bash gpu_pack/run.sh RESULTS [--budget SECONDS] [options of tools/benchmark.py gpu]
#
# It writes RESULTS/gpu.json and RESULTS/log.txt as it goes. Where a fault ends the process, it goes on in a new one.
set -uo pipefail

fail() { echo "error: $1" >&2; exit 2; }

(($#)) || fail "expected a folder for the results."
results=$1
shift
budget=440 options=()
while (($#)); do
    if [[ $1 == --budget ]]; then
        budget=${2:-}
        [[ $budget =~ ^[0-9]+$ ]] || fail "--budget '$budget': expected whole seconds."
        ((budget > 15)) || fail "--budget $budget: expected more than 15 seconds, which the start and the end take."
        shift 2
    else
        options+=("$1")
        shift
    fi
done
pack=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$results"
results=$(cd "$results" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python=${PYTHON:-python3}

project=$PWD
if [[ -f $pack/sources.tar.gz ]]; then
    project=$scratch/project
    mkdir -p "$project"
    tar -C "$project" -xzf "$pack/sources.tar.gz"
fi
[[ -f $project/benchmarks/bench_gpu.py ]] || fail "$project holds no benchmarks/bench_gpu.py; start this in the project's folder."
mkdir -p "$scratch/packages/convmae" "$scratch/site" "$scratch/data"
for part in backbones pretraining classification detection segmentation reports engine benchmarks studies configs zoo tools; do
    ln -s "$project/$part" "$scratch/packages/convmae/$part"
done
ln -s "$project"/api/* "$scratch/packages/convmae"
bring() {
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --no-cache-dir \
        --target "$scratch/site" "$@"
}
shopt -s nullglob
wheels=("$pack"/wheels/*.whl)
if ((${#wheels[@]})) && ! bring "${wheels[@]}"; then
    # One that does not fit here costs what needs it, not the run.
    for wheel in "${wheels[@]}"; do bring --upgrade "$wheel" || echo "not there: $wheel"; done
fi
if [[ -f $pack/data.tar.gz ]]; then
    tar -C "$scratch/data" -xzf "$pack/data.tar.gz"
    options+=(--data "$scratch/data")
fi
export PYTHONPATH=$scratch/packages:$scratch/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
cd "$project" || exit 2
for try in 1 2 3; do
    left=$((budget - SECONDS - 15)) # which the process takes to start and to end
    ((left > 0)) || break
    again=()
    ((try > 1)) && again=(--resume)
    "$python" tools/benchmark.py gpu --budget "$left" --output "$results/gpu.json" ${again[@]+"${again[@]}"} ${options[@]+"${options[@]}"} 2>&1 |
        tee -a "$results/log.txt"
    status=${PIPESTATUS[0]}
    # 2 is a mistake of input, which another try would repeat; 130 and 143 are Ctrl-C and SIGTERM, which want an end.
    ((status == 0 || status == 2 || status == 130 || status == 143)) && exit "$status"
done
exit "${status:-1}"
