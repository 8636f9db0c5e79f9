#!/usr/bin/env bash
# Prints the figures of README.md and docs/ again, a group at a time; results go to runs/figures.
#   bash docs/figures.sh               lists the groups
#   bash docs/figures.sh quickstart    prints one of them
# Some groups need data that is not part of this repository:
#   PHOTOS      a folder of scenes of photographs
#   RECORDINGS  a folder of sequences with a cameras.json each
#   DEMO        one folder of photographs
#   WEIGHTS     trained weights; by default small, of this repository
#   LEVELS      lines to compare with in the curve of `minutes`, such as SIFT=76.3
# Groups marked GPU are timings or trainings of one GPU; figures of others are those of two CPU cores.
set -euo pipefail
cd "$(dirname "$0")/.."
WEIGHTS=${WEIGHTS:-small}
export PATH="$PWD/.venv/bin:$PATH"

groups=$(sed -n 's/^  \([a-z_]*\)) # \(.*\)/\1|\2/p' "$0")
muskie_run() { # JOB CONFIG FOLDER FLAGS...
  muskie "$1" --config "configs/$2" --workdir "runs/figures/$3" "${@:4}"
}
experiment() { # NAME FLAGS...; on the GPUs of GPUS, such as 0,1, with SEEDS seeds
  local folder=runs/figures/$1 config=configs/$1.py
  JAX_COMPILATION_CACHE_DIR='' python -m muskie_jax.sweeps.experiment --config "$config" --workdir "$folder" \
    --gpus="${GPUS:-}" --seeds="${SEEDS:-3}" --recordings="$RECORDINGS" --config.sources.rooms.photos="$PHOTOS" "${@:2}"
  python -m muskie_jax.sweeps.figure --config "$config" --workdir "$folder" --out "$folder.svg"
}
recorded=(--config.posed.yours.root="${RECORDINGS:-}" --config.evaluate.sizes='((240, 320),)'
  --config.evaluate.reconstruction.views='(4,)' --config.evaluate.reconstruction.references='(2,)'
  --config.evaluate.reconstruction.modes="(('rectangle', 0.75),)"
  --config.evaluate.models="('trained=$WEIGHTS', 'untrained', 'still', 'patches')")

case ${1:-} in
  quickstart) # README, docs/training.md: error of the quickstart and its time
    WORKDIR=runs/figures/quickstart bash launch/quickstart.sh ;;
  evaluate) # docs/evaluation.md: what the quickstart's report shows (after: quickstart)
    muskie_run evaluate evaluate.py evaluate \
      --config.evaluate.models="('runs/figures/quickstart', 'untrained', 'still', 'patches')"
    grep -A 17 "## Reconstruction" runs/figures/evaluate/tables.md ;;
  photos) # docs/training.md: photos.py on PHOTOS
    muskie_run train photos.py photos --config.sources.photos.root="$PHOTOS" ;;
  rooms) # GPU. docs/training.md, docs/speed.md: rooms.py to its end, textures from PHOTOS
    muskie_run train rooms.py rooms --config.sources.rooms.photos="$PHOTOS" ;;
  initial_values) # GPU. docs/training.md: published and Xavier initial values, three seeds, textures from PHOTOS
    for run in {published,xavier}-{0,1,2}; do
      muskie_run train rooms.py "initial_$run" --config.model.initial_values="${run%-*}" --config.seed="${run#*-}" \
        --config.sources.rooms.photos="$PHOTOS" --config.buckets.resolutions='(((128, 128),),)' \
        --config.duration='4_000 steps' --config.optim.warmup='300 steps'
    done ;;
  muon) # GPU. docs/experiments.md: what Muon computes per update, and its time
    python -m muskie_jax.perf.muon
    for config in recipe.py:adamw recipe.py; do
      muskie_run benchmark "$config" "muon_${config#*.py}" --config.job=benchmark --config.batch.groups=64 \
        --config.benchmark.roofline=False \
        --config.benchmark.cases="(('small',(128,128),'none'),('base',(128,128),'none'),('large',(128,128),'none'))"
    done ;;
  saves) # GPU. docs/training.md: updates of Muskie-B with a save every 100 updates, and without
    for every in 100 0; do
      muskie_run train recipe.py:adamw "saves_$every" --config.model.variant=base --config.duration='600 steps' \
        --config.buckets.resolutions='(((128, 128),),)' --config.checkpoint.every="$every" --config.log.every=20
    done ;;
  results) # docs/evaluation.md: WEIGHTS on RECORDINGS, 24 groups of 8 views
    muskie_run evaluate evaluate.py:cameras results --config.posed.yours.groups=24 "${recorded[@]}"
    cat runs/figures/results/tables.md ;;
  points) # README, docs/experiments.md: points that small, tiny, an untrained network and SIFT find on RECORDINGS
    for sequences in recordings wide; do
      muskie_run evaluate "evaluate.py:$sequences" "points_$sequences" --config.data.root="$RECORDINGS" \
        --config.evaluate.layers='(2, 5)' --config.evaluate.models="('small', 'tiny', 'untrained:small', 'sift')"
      muskie pooled --workdir "runs/figures/points_$sequences"
    done ;;
  report) # docs/evaluation.jpg: part of the report of WEIGHTS on RECORDINGS, 9 groups of 4 views
    muskie_run evaluate evaluate.py:cameras report --config.posed.yours.groups=9 --config.evaluate.views='(4,)' \
      --config.evaluate.pictures=3 "${recorded[@]}" ;;
  notebook) # docs/weights.md: the notebook, with small and a synthetic room
    jupyter execute notebooks/features.ipynb --output=executed.ipynb ;;
  pictures) # README, docs/photographs.md, features.md, demo.md: pictures by small, of RECORDINGS (needs Chromium)
    # In docs, features.jpg and demo.jpg are scaled to widths of 1600 and 1000.
    lounge=$RECORDINGS/sun3d_lounge_a/images tote=$RECORDINGS/tote_realsense/images out=runs/figures/pictures
    mkdir -p "$out"
    muskie match "$lounge"/00{00,48}.jpg --max=40 --out "$out/matches.jpg" --force
    muskie track "$lounge"/00{00,16,32,48}.jpg --out "$out/tracks.jpg" --force \
      --points "325,325; 106,277; 488,247; 369,162; 50,202; 327,425"
    muskie features "$lounge"/00{00,16,32,48}.jpg --size=448 --out "$out/features.npz" --force
    muskie inpaint "$tote"/00{00,12,24,36,48}.jpg --out "$out/inpaint.jpg" --force
    PYTHONPATH=tests python -m muskie_tests.demo_picture "$out/demo.jpg" 0.57,0.66 "$lounge"/00{00,16,32,48}.jpg ;;
  small_gpu) # GPU. docs/training.md: muskie_base_24gb.py on PHOTOS, in 18 GiB, which are 12.8% of an H200's memory
    XLA_PYTHON_CLIENT_MEM_FRACTION=${FRACTION:-0.128} muskie_run train muskie_base_24gb.py:photos small_gpu \
      --config.sources.photos.root="$PHOTOS" --config.duration='16 steps' --config.optim.warmup='4 steps' \
      --config.log.every=4 --config.evaluation.every=0 --config.evaluation.groups=4 --config.evaluation.pictures=0
    grep -o '"train/seconds_per_step": [0-9.]*' runs/figures/small_gpu/metrics.jsonl ;;
  deterministic) # GPU. docs/training.md: digests and times of repeated trainings, with and without config.deterministic
    python -m muskie_jax.perf.determinism --workdir runs/figures/deterministic ;;
  stream) # GPU. docs/speed.md: learning curves with residual streams and products of float32 and bfloat16
    for types in float32-bfloat16 bfloat16-bfloat16 float32-float32; do
      muskie_run train rooms.py "stream_$types" --config.model.residual_dtype="${types%-*}" \
        --config.model.dtype="${types#*-}" --config.batch.groups=32 --config.sources.rooms.photos="$PHOTOS" \
        --config.buckets.resolutions='(((128, 128),),)' --config.duration='3_000 steps' \
        --config.optim.warmup='300 steps' --config.evaluation.every=1000 --config.log.every=50
    done ;;
  recipe) # GPUs. docs/experiments.md: steps of the recipe; RECORDINGS, textures from PHOTOS
    experiment recipe ;;
  controls) # GPUs. docs/experiments.md: what the recipe owes to views, photographs and Muon; likewise
    experiment controls --config.duration='3_000 steps' ;;
  backbones) # GPUs. docs/reconstruction.md: what the backbone contributes; reads runs/controls, see the config
    experiment reconstruct_backbones ;;
  ablations) # GPUs. docs/experiments.md: the paper's ablations in small; likewise
    experiment ablations ;;
  minutes) # GPU. docs/experiments.md: correspondence over minutes of training; RECORDINGS, textures from PHOTOS
    python -m muskie_jax.sweeps.experiment --config configs/controls.py --workdir runs/figures/minutes --runs=recipe \
      --seeds=1 --recordings="$RECORDINGS" --config.sources.rooms.photos="$PHOTOS" \
      --config.checkpoint.every=1500 --config.checkpoint.keep_every=1500
    muskie_run evaluate evaluate.py:recordings curve --config.data.root="$RECORDINGS" \
      --config.evaluate.models="('Muskie-S=runs/figures/minutes/recipe-seed0',)" --config.evaluate.checkpoints=all \
      --config.evaluate.layers='(5,)'
    python -m muskie_jax.sweeps.figure --workdir runs/figures/curve --out runs/figures/minutes.svg \
      --predictor='feature+refined 5' --levels="${LEVELS:-}" ;;
  steps) # GPU. docs/speed.md: time and memory of a training step, and the roofline
    muskie_run benchmark benchmark.py benchmark ;;
  attention) # GPU. muskie_jax/models/flash.py: attention alone, cuDNN and FlashAttention-3
    python -m muskie_jax.perf.attention ;;
  remat) # GPU. docs/speed.md: rematerialisation
    muskie_run benchmark benchmark.py:remat benchmark ;;
  scaling) # GPUs. docs/speed.md: weak scaling
    muskie_run benchmark benchmark.py:scaling benchmark ;;
  long) # GPUs. docs/speed.md: many views
    muskie_run benchmark benchmark.py:long benchmark
    muskie_run benchmark benchmark.py:long benchmark --config.batch.views=128 ;;
  fsdp) # GPUs. docs/speed.md: parameters and optimizer sharded over 1, 2, 4, ... GPUs
    muskie_run benchmark benchmark.py:fsdp benchmark ;;
  device_counts) # GPUs. docs/speed.md: losses of one training on COUNTS GPUs, such as 1,2,4,8
    python -m muskie_jax.perf.device_counts --counts="${COUNTS:-1,2}" --workdir runs/figures/device_counts ;;
  loading) # docs/speed.md, docs/data.md: views loaded per second, beside a PyTorch loader
    muskie_run benchmark_data benchmark_data.py loading ;;
  rendering) # GPU. docs/speed.md: rendering of synthetic rooms beside a training step
    python -m muskie_jax.perf.rendering
    python -m muskie_jax.perf.rendering --variant=base --groups=4 --size=224 ;;
  correspondence) # docs/evaluation.md: time to match and score the points of a group
    python -m muskie_jax.perf.correspondence
    python -m muskie_jax.perf.correspondence --dtype=bfloat16 ;;
  probe) # docs/evaluation.md: relative pose from frozen features
    muskie_run evaluate evaluate.py probe --config.evaluate.evaluators="('pose_probe',)" \
      --config.posed.rooms.groups=400 --config.evaluate.views='(4,)' \
      --config.evaluate.models="('small', 'untrained:small', 'patches')" ;;
  features) # docs/features.md: time and memory of features of DEMO's photographs, and the size of their file
    command time -f "%e s, %M kB" muskie features "$DEMO" --model "$WEIGHTS" --out runs/figures/features.npz --force ;;
  many_views) # docs/weights.md: time and memory of 100 views on a CPU, beside PyTorch
    python -m muskie_jax.perf.many_views --variant=tiny
    python -m muskie_jax.perf.many_views --variant=small ;;
  packing) # docs/data.md: size and time of packs of PHOTOS
    for flags in "" "--size=224" "--size=224 --quality=90" "--size=224 --format=png"; do
      # shellcheck disable=SC2086 # several flags
      (time muskie data pack --config configs/photos.py --config.sources.photos.root="$PHOTOS" --workers=0 \
        --out "runs/figures/pack_${flags//[^a-z0-9]/}" $flags) 2>&1 | grep -v "^$\|user\|sys"
    done
    du -sh runs/figures/pack_* ;;
  plans) # docs/plan.md: both examples (needs libtpu)
    plan=(--config.plan.machine=v5e:4x4 --config.plan.buckets=512x512x1)
    muskie_run plan plan.py:muskie_large plan "${plan[@]}"
    muskie_run plan plan.py:muskie_large plan "${plan[@]}" --config.model.remat=full --config.mesh.fsdp=2 ;;
  *)
    echo "bash docs/figures.sh GROUP prints the figures of a group:"
    echo "$groups" | while IFS='|' read -r name about; do printf '  %-15s %s\n' "$name" "$about"; done
    [ -z "${1:-}" ] ;;
esac
