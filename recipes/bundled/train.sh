#!/bin/sh
# Train the bundled model from nothing: sh train.sh PYTHON FOLDER. Every step resumes from its checkpoint in FOLDER.
# Written for 2 cores, some 18 hours; the metrics are FOLDER/*/curve.jsonl. Run it in the repository's folder.
# With QUICK=1 a few steps of everything, in minutes, and nothing outside of FOLDER: to see that the list runs.
set -eu
PYTHON=$1
FOLDER=$2
RECIPES=configs/training/bundled
if [ "${QUICK:-}" ]; then
    MINUTES=0.1 STEPS="--steps 4" CLIPS="--clips 2 --sampling-steps 2"
    FEW="--set steps=2 --set warmup_steps=1 --set batch_size=2 --set data.num_items=24"
    MODEL="--model $FOLDER/export/model --motion $FOLDER/export/motion_module.safetensors"
    SET="--set-folder $FOLDER/export/set"
    CLASSIFIER="--classifier $FOLDER/export/classifier.safetensors --images 64 --check 4"
    STYLES="--classifier $FOLDER/export/style_classifier.safetensors --images 8 --check 1"
fi
step() { name=$1; shift; "$PYTHON" -m "recipes.bundled.$name" "$@"; }
train() {
    recipe=$1; out=$2; shift 2
    "$PYTHON" -m animatediff.cli.main train "$RECIPES/$recipe.yaml" --set "out=$FOLDER/$out" \
        --set "data.cache=$FOLDER/cache" "$@" ${FEW:-}
}

# The image model: autoencoder, text encoder, then the UNet on stills while the decoder learns on.
[ -f "$FOLDER/vae/config.json" ] || step vae --run "$FOLDER" --minutes "${MINUTES:-12}"
[ -f "$FOLDER/text_encoder/config.json" ] || step text --run "$FOLDER" ${STEPS:-}
[ -f "$FOLDER/base/model_index.json" ] || step base --run "$FOLDER"
step decoder --run "$FOLDER" --minutes "${MINUTES:-28}" --threads 1 &
decoder=$!
train 1-image image --set "model=$FOLDER/base"
wait "$decoder"
# The motion module, and both to where the package looks for them.
train 2-motion motion --set "model=$FOLDER/image/model"
step export --run "$FOLDER" ${MODEL:-}
step sanity ${MODEL:-}
step classifiers --run "$FOLDER" ${STEPS:-} ${CLASSIFIER:-}
step measure --run "$FOLDER" ${MODEL:-} ${CLIPS:-}

# The bundled set, for the model that ships: image models of another style, MotionLoRAs, SparseCtrl encoders, and a
# domain adapter with two motion modules that show its use.
step style_classifier --run "$FOLDER" ${STEPS:-} ${STYLES:-}
train look-neon neon
train look-paper paper
for move in ZoomIn ZoomOut PanLeft PanRight TiltUp TiltDown RollingClockwise RollingAnticlockwise; do
    case $move in # zooms move pixels least, and a view that turns is hardest to paint
        Zoom* | Roll*) strength=1.6 steps=600 ;;
        *) strength=1 steps=300 ;;
    esac
    train motion-lora "motion_lora/$move" --set "data.camera=$move" --set "data.camera_strength=$strength" \
        --set "steps=$steps"
done
train sparsectrl-rgb rgb_start
train sparsectrl-rgb sparsectrl_rgb --set "start_from=$FOLDER/rgb_start/sparsectrl.safetensors" --set steps=450 \
    --set learning_rate=1.2e-3 --set seed=8100
train sparsectrl-scribble sparsectrl_scribble --set "start_from=$FOLDER/sparsectrl_rgb/sparsectrl.safetensors"
train camera camera_control
train adapter adapter
train motion-watermark with_adapter --set "domain_adapter=$FOLDER/adapter/domain_adapter.safetensors"
train motion-watermark without_adapter
step export --run "$FOLDER" --set ${SET:-}
for result in styles cameras adapter keyframes paths; do
    step results "$result" --run "$FOLDER" --out "$FOLDER" ${MODEL:-} ${SET:-} ${CLIPS:-} \
        --camera-control "$FOLDER/camera_control/camera_control.safetensors"
done
