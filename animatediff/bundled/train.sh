#!/bin/sh
# Train the bundled model from nothing: sh train.sh PYTHON FOLDER. Every step resumes from its checkpoint in FOLDER.
# Written for 2 cores; the curves are FOLDER/*.jsonl.
set -eu
PYTHON=$1
FOLDER=$2
step() { name=$1; shift; "$PYTHON" -m "animatediff.bundled.$name" --run "$FOLDER" "$@"; }

[ -f "$FOLDER/vae/config.json" ] || step vae --minutes 12
[ -f "$FOLDER/text_encoder/config.json" ] || step text
step pool --steps 24 --threads 1 &
step decoder --minutes 28 --threads 1 &
step image --steps 8250 --shards 24 --threads 1
wait
step motion --steps 4500 --half 0.5
step judges
step export
step measure
