"""Fine-tune a supernet or a single network: ``python -m recipes.autoformer.finetune fit --config FILE``; also validate and test."""

from recipes.autoformer.cli import told, train
from recipes.autoformer.training import finetuning

if __name__ == "__main__":
    told(lambda: train(finetuning))
