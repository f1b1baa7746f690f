#!/usr/bin/env bash
# The whole chain on small data, a line a step: bash recipes/autoformer/small.sh OUT [DATA]
# DATA: a folder with cifar10*.npz and cifar100*.npz (images, labels); without it scikit-learn's digits stand for both.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: small.sh OUT [DATA]" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
[ -z "$(ls -A "$out")" ] || { echo "$out is not empty: give a new folder" >&2; exit 2; }
data=${2:+$(cd "$2" && pwd)}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=$out/cache PYTHONWARNINGS=ignore
python=${PYTHON:-python}

images() { # a data module with the recipe's augmentations for 32 pixels; npz files by the beginning of their name
    local file=""
    if [ -n "$data" ]; then
        file=$(find "$data" -maxdepth 1 -name "$1*.npz" | sort | head -n 1)
        [ -n "$file" ] || { echo "$data has no $1*.npz" >&2; exit 2; }
        echo "--data recipes.data.NPZ --data.path=$file"
    else
        echo "--data recipes.data.Digits"
    fi
}
first=$(images cifar10_) second=$(images cifar100_)
IFS=$' \n'
augmented="--data.batch_size=64 --data.workers=0 --data.transforms=recipes.data.Timm --data.transforms.size=32 --data.transforms.crop=1.0"
space='{depths: [2, 3], widths: [48, 64], heads: [1, 2], ratios: [1, 2]}'
sizes=(--space "$space" --image_size 32 --patch_size 8)
small=(--config recipes/autoformer/configs/small.yaml)

step() { # NAME COMMAND ARGUMENTS...: the last line that it printed
    local name=$1 start=$SECONDS
    shift
    if ! "$python" -m "$@" >"$out/$name.log" 2>&1; then
        tail -n 20 "$out/$name.log" >&2
        echo "$name failed: $out/$name.log" >&2
        exit 1
    fi
    echo "$name: $(tail -n 1 "$out/$name.log") ($((SECONDS - start)) s)"
}

step supernet recipes.autoformer.train_supernet "${small[@]}" $first $augmented --data.repeats=3 --out "$out/supernet"
last=$out/supernet/checkpoints/last.ckpt
table=(--checkpoints "[$last]" --out "$out/benchmark.csv" --task first $first $augmented)
step benchmark recipes.autoformer.sample_benchmark "${table[@]}" --subnets 8
step benchmark-goes-on recipes.autoformer.sample_benchmark "${table[@]}" --subnets 16
step libra recipes.autoformer.fit_libra --benchmark "$out/benchmark.csv" --out "$out/libra.json" "${sizes[@]}" $first $augmented \
    --proxies lswag,zico,nwot --samples 16
evolution=(--evaluations 24 --samples 16 --max_params 150000 --evolution.population 8 --evolution.mutations 4 --evolution.crossovers 4)
step search-lswag recipes.autoformer.search "${sizes[@]}" $first $augmented "${evolution[@]}" --out "$out/lswag.yaml"
step search-libra recipes.autoformer.search "${sizes[@]}" $first $augmented "${evolution[@]}" --out "$out/libra.yaml" --libra "$out/libra.json"
step retrain recipes.autoformer.retrain "${small[@]}" $first $augmented --model.architecture "$out/lswag.yaml" --out "$out/retrain"
tuned=("${small[@]}" $second $augmented --model.weights "$last")
step finetune recipes.autoformer.finetune "${tuned[@]}" --out "$out/finetune" --trainer.callbacks.save_top_k=-1 \
    --trainer.callbacks.filename=null --trainer.callbacks.save_last=true
half=$(find "$out/finetune/checkpoints" -name 'epoch=0-*.ckpt')
step resume recipes.autoformer.finetune "${tuned[@]}" --out "$out/resumed" --ckpt_path "$half"
step same-weights recipes.autoformer.checkpoints "$out/finetune/checkpoints/last.ckpt" "$out/resumed/checkpoints/last.ckpt"
step evaluate-finetuned recipes.autoformer.evaluate --checkpoint "$out/resumed/checkpoints/last.ckpt" --architecture "$out/lswag.yaml" \
    $second $augmented --out "$out/finetuned.json"
step evaluate-retrained recipes.autoformer.evaluate --checkpoint "$out/retrain/checkpoints/last.ckpt" $first $augmented
