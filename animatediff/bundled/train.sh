#!/bin/sh
# Train the bundled model from nothing: sh train.sh PYTHON FOLDER. Every step resumes from its checkpoint in FOLDER.
# Written for 2 cores, some 16 hours; the curves are FOLDER/*/curve.jsonl. Run it in the repository's folder.
set -eu
PYTHON=$1
FOLDER=$2
RECIPES=configs/training/bundled
step() { name=$1; shift; "$PYTHON" -m "animatediff.bundled.$name" --run "$FOLDER" "$@"; }
train() {
    recipe=$1; out=$2; shift 2
    "$PYTHON" -m animatediff.cli.main train "$RECIPES/$recipe.yaml" --set "out=$FOLDER/$out" --set "data.cache=$FOLDER/cache" "$@"
}

# The image model: autoencoder, text encoder, then the UNet on stills while the decoder learns on.
[ -f "$FOLDER/vae/config.json" ] || step vae --minutes 12
[ -f "$FOLDER/text_encoder/config.json" ] || step text
[ -f "$FOLDER/base/model_index.json" ] || step base
step decoder --minutes 28 --threads 1 &
train 1-image image --set "model=$FOLDER/base"
wait
# The motion module, and both to where the package looks for them.
train 2-motion motion --set "model=$FOLDER/image/model"
step export
"$PYTHON" -m animatediff.bundled.gates
step judges
step measure

# The bundled set, for the model that ships: a domain adapter with two motion modules that show what it is for, image
# models of another look, MotionLoRAs, SparseCtrl encoders.
train adapter adapter # with attention at 8x8 and 4x4 alone it hardly learns the mark, so it is not exported
train motion-watermark with_adapter --set "domain_adapter=$FOLDER/adapter/domain_adapter.safetensors"
train motion-watermark without_adapter
train look-neon neon
train look-paper paper
for move in ZoomIn ZoomOut PanLeft PanRight TiltUp TiltDown; do # none rolls: still sprites are upright, see docs
    case $move in Zoom*) strength=1.6 ;; *) strength=1 ;; esac # pixels move least where things zoom
    train motion-lora "motion_lora/$move" --set "data.camera=$move" --set "data.camera_strength=$strength"
done
train sparsectrl-rgb rgb_start
train sparsectrl-rgb sparsectrl_rgb --set "start_from=$FOLDER/rgb_start/sparsectrl.safetensors" --set steps=450 \
    --set learning_rate=1.2e-3 --set seed=8100
train sparsectrl-scribble sparsectrl_scribble # does not follow yet, so it is not exported
step export --set
for claim in looks cameras adapter keyframes; do
    "$PYTHON" -m animatediff.bundled.claims "$claim" --run "$FOLDER" --out "$FOLDER"
done
