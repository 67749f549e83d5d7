#!/bin/sh
# The floors of pyproject.toml are true: the lowest versions install, render the bundled clip, and pass tests of each room.
# usage: sh scripts/test_lowest.sh FOLDER [PYTHON]; FOLDER becomes a virtual environment, of the oldest Python there is.
set -eu
cd "$(dirname "$0")/.."
folder=${1:?usage: test_lowest.sh FOLDER [PYTHON]}
python=${2:-}
if [ -z "$python" ]; then
    for python in python3.10 python3.11 python3.12 python3.13 python3; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && break
    done
fi
"$python" -m venv --clear "$folder"
case $folder in /*) ;; *) folder=$PWD/$folder ;; esac
export UV_SYSTEM_CERTS=1 UV_NATIVE_TLS=1  # the certificates of this system, under uv's new and former name
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check uv
install() { "$folder/bin/uv" pip install --quiet --python "$folder/bin/python" "$@"; }
install --resolution lowest-direct '.[heic,train]'
install pytest pytest-timeout hypothesis  # what is there stays
for version in 3.10 3.11 3.12 3.13; do
    echo "Python $version: floors and constraints hold together"
    resolve() { "$folder/bin/uv" pip compile --quiet --python-version "$version" "$@" pyproject.toml >/dev/null; }
    resolve --resolution lowest-direct --extra heic --extra train
    resolve --constraint constraints.txt --extra heic --extra train --extra media --extra dev
done
"$folder/bin/uv" pip check --python "$folder/bin/python"
"$folder/bin/uv" pip freeze --python "$folder/bin/python"

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
(cd "$place" && for name in clip.mp4 clip.webm clip.gif; do
    "$folder/bin/animatediff" animate "a fox moving right on a green background" --seed 1 --steps 2 --num-frames 8 --out $name
done && "$folder/bin/animatediff" evaluate clip.mp4)
"$folder/bin/python" -m pytest -q -p no:cacheprovider tests/test_golden.py tests/media tests/cli/test_bad_input.py \
    tests/cli/test_animate.py tests/pipelines/test_controlnet.py tests/weights/test_layouts.py \
    tests/weights/test_lora_methods.py tests/weights/test_safetensors_header.py tests/training/test_loop.py
