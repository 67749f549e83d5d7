#!/bin/sh
# Train the bundled model from nothing: sh train.sh PYTHON FOLDER. Every step resumes from its checkpoint in FOLDER.
# Written for 2 cores, some 20 hours; the metrics are FOLDER/*/curve.jsonl. Run it in the repository's folder.
# train_gpu.sh runs the same list on a GPU: options for a step are in the variable of its name, such as IMAGE.
# With APART=1 nothing outside of FOLDER is written: the parts are in FOLDER/export, laid out as the package ships them.
# With QUICK=1 as well, and a few steps of everything, in minutes: to see that the list runs.
set -eu
PYTHON=$1
FOLDER=$2
RECIPES=configs/training/bundled
if [ "${QUICK:-}" ]; then
    APART=1 VAE="--steps 4 --batch 4" DECODER="--steps 4 --batch 4" TEXT="--steps 4 --batch 8"
    FEW="--set steps=2 --set warmup_steps=1 --set batch_size=2 --set data.num_items=24 --set compile=false"
    CLASSES="--steps 4 --images 64 --check 4" STYLES="--steps 4 --images 8 --check 1"
    CLIPS="--clips 2 --sampling-steps 2"
fi
if [ "${APART:-}" ]; then
    EXPORT=$FOLDER/export
    BASE="--set model=$EXPORT/model" MOVING="--set motion_module=$EXPORT/motion_module.safetensors"
    AGAIN="--set start_from=$EXPORT/motion_module.safetensors"
    MODEL="--model $EXPORT/model --motion $EXPORT/motion_module.safetensors" SET="--set-folder $EXPORT/set"
    CLASSES="${CLASSES:-} --classifier $EXPORT/classifier.safetensors"
    STYLES="${STYLES:-} --classifier $EXPORT/style_classifier.safetensors"
fi
timed() { began=$(date +%s); name=$1; shift; "$@"; echo "$name: $(($(date +%s) - began)) s"; }
step() { name=$1; shift; timed "$name" "$PYTHON" -m "recipes.bundled.$name" "$@"; }
train() {
    recipe=$1; out=$2; shift 2
    timed "$out" "$PYTHON" -m animatediff train "$RECIPES/$recipe.yaml" --set "out=$FOLDER/$out" \
        --set "data.cache=$FOLDER/cache" "$@" ${FEW:-}
}
still() { train "$@" ${BASE:-}; }                # a part of the set that is trained on images
moving() { train "$@" ${BASE:-} ${MOVING:-}; }   # one that builds on the motion module

# The image model: autoencoder, text encoder, then the UNet on stills while the decoder learns on;
# then with little noise drawn more often, which is where shapes are made.
[ -f "$FOLDER/vae/config.json" ] || step vae --run "$FOLDER" ${VAE:---minutes 12}
[ -f "$FOLDER/text_encoder/config.json" ] || step text --run "$FOLDER" ${TEXT:-}
[ -f "$FOLDER/base/model_index.json" ] || step base --run "$FOLDER"
step decoder --run "$FOLDER" ${DECODER:---minutes 28 --threads 1} &
decoder=$!
train 1-image image_start --set "model=$FOLDER/base" ${IMAGE:-}
train 1-image image --set "model=$FOLDER/image_start/model" --set new_unet=false --set steps=14000 \
    --set learning_rate=8e-4 --set timestep_power=1.5 --set data.num_items=131072 --set seed=4100 ${IMAGE_AGAIN:-}
wait "$decoder"
# The motion module, and both to where the package looks for them.
train 2-motion motion --set "model=$FOLDER/image/model" ${MOTION:-}
step export --run "$FOLDER" ${MODEL:-}
step sanity ${MODEL:-}
step classifiers --run "$FOLDER" ${CLASSES:-}
step measure --run "$FOLDER" ${MODEL:-} ${CLIPS:-}

# The bundled set, for the model that ships: image models of another style, MotionLoRAs, SparseCtrl encoders, and a
# domain adapter with two motion modules that show its use.
step style_classifier --run "$FOLDER" ${STYLES:-}
still look-neon neon ${NEON:-}
still look-paper paper ${PAPER:-}
for move in ZoomIn ZoomOut PanLeft PanRight TiltUp TiltDown RollingClockwise RollingAnticlockwise; do
    case $move in # zooms move pixels least, and a view that turns is hardest to paint
        Zoom* | Roll*) strength=1.6 steps=600 ;;
        *) strength=1 steps=300 ;;
    esac
    moving motion-lora "motion_lora/$move" --set "data.camera=$move" --set "data.camera_strength=$strength" \
        --set "steps=$steps" ${MOTION_LORA:-}
done
moving sparsectrl-rgb rgb_start ${RGB:-}
moving sparsectrl-rgb sparsectrl_rgb --set "start_from=$FOLDER/rgb_start/sparsectrl.safetensors" --set steps=450 \
    --set learning_rate=1.2e-3 --set seed=8100 ${RGB_AGAIN:-}
moving sparsectrl-scribble sparsectrl_scribble --set "start_from=$FOLDER/sparsectrl_rgb/sparsectrl.safetensors" \
    ${SCRIBBLE:-}
moving camera camera_control ${CAMERA:-}
still adapter adapter ${ADAPTER:-}
still motion-watermark with_adapter --set "domain_adapter=$FOLDER/adapter/domain_adapter.safetensors" ${AGAIN:-} \
    ${WATERMARK:-}
still motion-watermark without_adapter ${AGAIN:-} ${WATERMARK:-}
step export --run "$FOLDER" --set ${SET:-}
for result in styles cameras adapter keyframes paths; do
    step results "$result" --run "$FOLDER" --out "$FOLDER" ${MODEL:-} ${SET:-} ${CLIPS:-}
done
