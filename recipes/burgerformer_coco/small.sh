#!/usr/bin/env bash
# The whole chain, small, on a CPU: search, pretrain, detect, stop, go on, evaluate, compare. A line a step.
#   bash recipes/burgerformer_coco/small.sh OUT [COCO_FOLDER]
# COCO_FOLDER: instances.json beside images/, or COCO's own layout; without it, pictures with shapes are drawn.
set -euo pipefail

[ $# -ge 1 ] && [ $# -le 2 ] || { echo "usage: bash recipes/burgerformer_coco/small.sh OUT [COCO_FOLDER]" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
[ ! -e "$out/detect" ] || { echo "error: $out holds a run already: give another folder" >&2; exit 2; }
if [ $# -eq 2 ]; then
    [ -d "$2" ] || { echo "error: there is no folder $2" >&2; exit 2; }
    data=$(cd "$2" && pwd) iterations=${ITERATIONS:-120}
else
    data=$out/shapes iterations=${ITERATIONS:-100}
fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=${PYTHON:-python}
export PYTHONDONTWRITEBYTECODE=1 PYTHONWARNINGS=ignore OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
step() { # NAME COMMAND...: output goes to a file, its last line is shown
    local name=$1 start=$SECONDS
    shift
    if ! "$python" "$@" >"$out/$name.log" 2>&1; then
        tail -n 20 "$out/$name.log" >&2
        echo "$name failed: $out/$name.log" >&2
        exit 1
    fi
    echo "$name: $(grep -v "^ *$" "$out/$name.log" | tail -n 1 | cut -c 1-200) ($((SECONDS - start)) s)"
}

recipe=recipes.burgerformer_coco
if [ $# -eq 1 ]; then
    step draw -c "from lswag_hooks.detection.shapes import write_shapes; print(write_shapes('$data', 16, (160, 128)))"
fi
step search -m $recipe.search --data "$data" --out "$out/search.yaml" --samples 4 --scale "[160,128]" --evaluations 12 \
    --max_params 2000000 --evolution.population 6 --evolution.mutations 3 --evolution.crossovers 3 --evolution.parents 3 \
    --store "$out/search.db"
step search-goes-on -m $recipe.search --data "$data" --out "$out/search.yaml" --samples 4 --scale "[160,128]" --evaluations 12 \
    --max_params 2000000 --evolution.population 6 --evolution.mutations 3 --evolution.crossovers 3 --evolution.parents 3 \
    --store "$out/search.db"
step pretrain -m $recipe.pretrain --data recipes.data.Digits --data.size 32 --data.samples 160 --data.batch_size 32 \
    --data.workers 0 --data.transforms recipes.data.Plain --data.transforms.size 32 --model.architecture "$out/search.yaml" \
    --model.schedule.warmup_epochs 1 --model.schedule.lr_batch 32 --trainer.max_epochs 2 --trainer.accelerator cpu \
    --trainer.devices 1 --trainer.precision 32-true --trainer.enable_progress_bar false \
    --trainer.enable_model_summary false --out "$out/pretrain"
detect=(-m $recipe.detect --backbone "$out/search.yaml" --weights "$out/pretrain/checkpoints/last.ckpt" --data "$data"
    --detector recipes/burgerformer_coco/configs/mask_rcnn_small.py --scale "[256,192]" --batch_size 4 --workers 0
    --iterations "$iterations" --out "$out/detect")
step detect "${detect[@]}" --stop_after $((iterations / 2))
step resume "${detect[@]}" --resume true
step evaluate -m $recipe.evaluate --run "$out/detect" --pictures 4
step compare -m $recipe.compare --out "$out/compare.md" --data "$data" --found "$out/search.yaml" \
    --backbones '["timm/test_resnet", "timm/test_convnext"]' --proxies lswag,zico --samples 2 --scale "[160,128]"
echo "done ($SECONDS s): $out/detect/table.md"
