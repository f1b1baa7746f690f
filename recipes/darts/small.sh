#!/usr/bin/env bash
# The whole chain, small: search, train, stop, go on, evaluate, table. A line a step; all it writes is in OUT.
#   bash recipes/darts/small.sh OUT [DATA]
# DATA: a folder with a file cifar10*.npz (images uint8 NHWC, labels); without it, scikit-learn's digits.
set -euo pipefail

[ $# -ge 1 ] && [ $# -le 2 ] || { echo "usage: bash recipes/darts/small.sh OUT [DATA]" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
if [ $# -eq 2 ]; then
    file=$(find "$2" -maxdepth 1 \( -name 'cifar10.npz' -o -name 'cifar10[!0]*.npz' \) 2>/dev/null | sort | head -1)
    [ -n "$file" ] || { echo "error: $2 holds no cifar10*.npz: give a folder that does, or none" >&2; exit 2; }
    file=$(realpath "$file")
    data=(--data recipes.data.NPZ --data.path "$file")
else
    data=(--data recipes.data.Digits)
fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ ! -e "$out/train" ] || { echo "error: $out holds a run already: give another folder" >&2; exit 2; }

export PYTHONDONTWRITEBYTECODE=1 PYTHONWARNINGS=ignore OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
step() { # a name, then a command, whose output goes to a file and whose last lines are shown
    local name=$1 start=$SECONDS
    shift
    if ! "$@" >"$out/$name.log" 2>&1; then
        echo "$name: FAILED, see $out/$name.log" >&2
        tail -5 "$out/$name.log" >&2
        exit 1
    fi
    echo "$name ($((SECONDS - start)) s): $(tail -1 "$out/$name.log")"
}

small=(--model.channels 4 --model.layers 5 --model.lr 0.1 --model.lr_batch 32 --model.drop_path 0.1
    --data.samples 1280 --data.batch_size 32 --data.workers 0 --prefilter.samples 16 --trainer.max_epochs 6
    --trainer.accelerator cpu --trainer.enable_progress_bar false --out "$out/train")
train=(python -m recipes.darts.train_cifar10 "${data[@]}" "${small[@]}" --model.genotype "$out/search/genotype.yaml")

step search python -m recipes.darts.search "${data[@]}" --data.transforms.size 8 --samples 8 --operations 6 \
    --repeats 1 --workers 2 --progress false --out "$out/search"
step train "${train[@]}" --stop_after 3
step resume "${train[@]}" --ckpt_path last
step evaluate python -m recipes.darts.evaluate "${data[@]}" --data.samples 1280 --data.workers 0 \
    --trainer.accelerator cpu --trainer.enable_progress_bar false \
    --model.checkpoint "$out/train/checkpoints/last.ckpt" --out "$out/evaluate"
step table python -m recipes.darts.table "$out/search/search.json" "$out/evaluate/result.json" --out "$out/table.md"
echo "done ($SECONDS s): $out/table.md"
