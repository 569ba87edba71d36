#!/usr/bin/env bash
# Makes a folder that lets the battery run where the project is not installed and nothing can be fetched, and prints how.
#
#   tools/pack_gpu.sh --data DATA --sets "coco_mini camvid_mini"
#
# The machine there needs Python 3.12 with PyTorch, torchvision, timm, numpy, pillow, opencv, tensorboard and what they bring.
#
#   --output FOLDER   the folder to make anew (default gpu_pack)
#   --data FOLDER     where the data sets lie; without it generated scenes stand in for them
#   --sets "A B"      which of them to take (default all)
#   --wheels FOLDER   wheels that are there already, or `none`; by default pip makes them (with Python 3.12, by PYTHON)
#   --sources yes     take this project's sources along, too; by default they are there already, the pack beside them
#   --limit MIB       the most that all of it may be (default 55)
set -euo pipefail

PACKAGES=(
    # As source alone, of which pip makes wheels without compiled parts:
    onedl-mmcv==2.3.6 onedl-mmsegmentation==1.4.2 antlr4-python3-runtime==4.9.3 fvcore==0.1.5.post20221221
    onedl-mmengine==0.10.12 omegaconf==2.3.1 pycocotools==2.0.11 hotcoco==1.3.0 yapf==0.43.0 prettytable==3.18.0
    wcwidth platformdirs ftfy iopath yacs termcolor addict tifffile==2026.11.8
)
PARTS=(api backbones pretraining classification detection segmentation reports engine benchmarks studies configs zoo tools tests docs setup.cfg pyproject.toml)

fail() { echo "error: $1" >&2; exit 2; }

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
output=gpu_pack data="" sets="" wheels="" sources=no limit=55
while (($#)); do
    (($# > 1)) || fail "$1 needs a value; the comment at the top of ${BASH_SOURCE[0]} has the options."
    case $1 in
        --output) output=$2 ;;
        --data) data=$2 ;;
        --sets) sets=$2 ;;
        --wheels) wheels=$2 ;;
        --sources) sources=$2 ;;
        --limit) limit=$2 ;;
        *) fail "there is no option $1; the comment at the top of ${BASH_SOURCE[0]} has them." ;;
    esac
    shift 2
done
output=${output%/}
[[ -n $output ]] || fail "--output needs a folder's name."
[[ $limit =~ ^[0-9]+$ ]] || fail "--limit '$limit': expected whole MiB."
[[ $sources == yes || $sources == no ]] || fail "--sources '$sources': expected yes or no."
[[ -z $sets || -n $data ]] || fail "--sets needs --data, the folder that they lie in."
[[ -z $data || -d $data ]] || fail "--data $data: there is no such folder."
[[ -z $wheels || $wheels == none || -d $wheels ]] || fail "--wheels $wheels: there is no such folder."
[[ ! -e $output || -f $output/run.sh ]] || fail "--output $output is there and is no pack; give another, or remove it."

part=$output.part
rm -rf "$part"
mkdir -p "$part/wheels"
trap 'rm -rf "$part"' EXIT
if [[ -z $wheels ]]; then
    "${PYTHON:-python3.12}" -m pip wheel --quiet --no-deps --wheel-dir "$part/wheels" "${PACKAGES[@]}"
elif [[ $wheels != none ]]; then
    compgen -G "$wheels/*.whl" > /dev/null || fail "--wheels $wheels holds no wheels."
    cp "$wheels"/*.whl "$part/wheels/"
fi
if [[ -n $data ]]; then
    if [[ -n $sets ]]; then read -ra taken <<< "$sets"; else mapfile -t taken < <(ls "$data"); fi
    ((${#taken[@]})) || fail "--data $data is empty."
    for set in "${taken[@]}"; do
        [[ -e $data/$set ]] || fail "--sets: $data holds no $set."
    done
    tar -C "$data" -czf "$part/data.tar.gz" "${taken[@]}"
fi
if [[ $sources == yes ]]; then
    tar -C "$project" --exclude=__pycache__ -czf "$part/sources.tar.gz" "${PARTS[@]}"
fi
cp "$project/benchmarks/gpu/run.sh" "$part/run.sh"

size=$(du -sk --apparent-size "$part" | cut -f 1)
if ((size > limit * 1024)); then
    largest=$(du -ak --apparent-size "$part" | sort -rn | sed -n '2,4p' | awk -v top="$part/" '{sub(top, "", $2); printf "%s %.1f  ", $2, $1 / 1024}')
    fail "the pack would be $((size / 1024)) MiB; expected at most $limit. Take fewer --sets. The largest, in MiB: $largest"
fi
rm -rf "$output"
mv "$part" "$output"
echo "$output: $((size / 1024)) MiB. Beside the project's sources (or with --sources yes anywhere), this line runs the battery:"
echo
echo "bash $output/run.sh RESULTS --budget 440 --device cuda"
