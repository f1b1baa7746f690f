"""Train a single network from scratch: ``python -m recipes.autoformer.retrain fit --config FILE``; also validate and test."""

from recipes.autoformer.cli import told, train
from recipes.autoformer.training import SubnetTraining

if __name__ == "__main__":
    told(lambda: train(SubnetTraining))
