"""Select the k best of many candidates, as scikit-learn's SelectKBest selects features."""

import functools

from torch import nn

import lswag_hooks as lh
from lswag_hooks.integrations import SelectKBest


def network(width: int, activation: type[nn.Module]) -> nn.Sequential:
    """A small network for digits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), activation(), nn.Linear(width, 10))


def main() -> dict:
    """Three of eight."""
    candidates = {
        f"{activation.__name__} {width}": functools.partial(network, width, activation)
        for activation in (nn.ReLU, nn.GELU)
        for width in (4, 8, 16, 32)
    }
    batch = lh.Batch.builtin("digits", size=(1, 8, 8), samples=32)
    selector = SelectKBest(k=3, proxies="zico", seeds=2, progress=False)
    kept = selector.fit_transform(candidates, batch)
    for name, score, chosen in zip(candidates, selector.scores_, selector.get_support(), strict=True):
        print(f"{name:8} {score:8.2f} {'kept' if chosen else ''}")
    print(selector.ranking_)
    return kept


if __name__ == "__main__":
    main()
