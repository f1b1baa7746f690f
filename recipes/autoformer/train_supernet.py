"""Train a supernet: ``python -m recipes.autoformer.train_supernet fit --config FILE``; also validate and test."""

from recipes.autoformer.cli import told, train
from recipes.autoformer.training import SupernetTraining

if __name__ == "__main__":
    told(lambda: train(SupernetTraining))
