#!/bin/sh
# Train the bundled model and its set from nothing on one GPU, in minutes: sh train_gpu.sh PYTHON FOLDER.
# The list of train.sh with large batches in bfloat16; images are drawn on the device, so nothing is cached. It writes
# FOLDER/export, laid out as the package ships it, measures it, and prints the time of each step.
# It needs this repository, torch, diffusers, transformers, safetensors, accelerate and PEFT. What may be left behind:
# animatediff/bundled, tests and the pictures of docs. FACTOR=2 makes every step twice as long.
set -eu
FACTOR=${FACTOR:-1}
steps() { echo "--set steps=$((FACTOR * $1))"; }

fast="--set precision=bf16 --set data.cache=null --set save_every=0 --set validate_every=0"
images="$fast --set batch_size=1024 --set data.num_items=4000000"
clips="$fast --set batch_size=32 --set data.num_items=400000"
export APART=1
export VAE="--steps $((FACTOR * 1500)) --batch 128 --rate 3e-3 --bf16"
export DECODER="--steps $((FACTOR * 1500)) --batch 128 --rate 2e-3" TEXT="--steps $((FACTOR * 1500)) --batch 512"
export IMAGE="$images $(steps 1200) --set learning_rate=2e-3 --set compile=true --set ema=0.998"
export IMAGE_AGAIN="$images $(steps 1200) --set learning_rate=1.5e-3 --set compile=true --set ema=0.998 --set seed=4100"
export MOTION="$clips $(steps 1500) --set learning_rate=1.5e-3"
export NEON="$fast $(steps 150) --set batch_size=256 --set data.num_items=40000 --set learning_rate=8e-4"
export PAPER="$fast $(steps 200) --set batch_size=128 --set data.num_items=40000"
export ADAPTER="$fast $(steps 150) --set batch_size=128 --set data.num_items=40000"
export MOTION_LORA="$fast $(steps 120) --set batch_size=16"
export RGB="$clips $(steps 300)" RGB_AGAIN="$clips $(steps 100)" SCRIBBLE="$clips $(steps 300)"
export CAMERA="$clips $(steps 400)" WATERMARK="$fast $(steps 60) --set batch_size=16"
exec sh "$(dirname "$0")/train.sh" "$1" "$2"
