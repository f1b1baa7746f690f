import pytest
import torch

from lswag_hooks.errors import InputError
from lswag_hooks.spaces.darts import GENOTYPES, from_genotype, network
from lswag_hooks.spaces.darts_genotypes import parse
from lswag_hooks.spaces.darts_supernet import (
    EDGES,
    FULL,
    OPERATIONS,
    Supernet,
    genotype,
    read,
    without,
    written,
)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def single(architecture):
    """The supernet that holds an architecture alone."""
    found = parse(architecture)
    return tuple(
        tuple(
            tuple(OPERATIONS.index(name) for name, origin in edges[2 * (node - 2) : 2 * (node - 1)] if origin == source)
            for source, node in EDGES
        )
        for edges in (found.normal, found.reduce)
    )


@pytest.mark.parametrize(
    ("classes", "thin", "expected"),
    [(10, False, 5_431), (10, True, 5_413), (1000, False, 14_341), (1000, True, 14_323)],
)
def test_parameters_are_those_of_te_nas(classes, thin, expected):
    assert parameters(Supernet().build(FULL, classes, in_channels=1 if thin else 3, thin=thin)) == expected


@pytest.mark.parametrize("size", [Supernet(), Supernet(4, 3, 2), Supernet(2, 8, 3)])
def test_it_runs_at_any_size_and_every_weight_gets_a_gradient(size):
    model = size.build(FULL, 7, seed=0)
    model(torch.randn(4, 3, 19, 17)).pow(2).sum().backward()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    # the last cell's output is all that counts of it, so that nothing is left over
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert Supernet().build(thin=True, in_channels=1)(torch.zeros(2, 1, 3, 3)).shape == (2, 10)


def test_an_edge_is_the_mean_of_what_is_alive_and_weights_do_not_move():
    full = Supernet(2).build(seed=0).cells[0]
    pruned = Supernet(2).build(without(FULL, 0, 5, (0, 3)), seed=0).cells[0]
    state = dict(pruned.edges[5].named_parameters())
    assert len(state) and len(pruned.edges[5].operations) == 5
    torch.manual_seed(0)
    images = torch.randn(3, 2, 8, 8)
    kept = [full.edges[5].operations[index] for index in (1, 2, 4, 5, 6)]
    torch.testing.assert_close(pruned.edges[5](images), torch.stack([run(images) for run in kept]).mean(0))
    for index in (0, 4, 13):
        torch.testing.assert_close(pruned.edges[index](images), full.edges[index](images))


@pytest.mark.parametrize("name", list(GENOTYPES))
def test_a_pruned_supernet_is_the_network_of_its_genotype(name):
    live = single(GENOTYPES[name])
    pruned = Supernet(channels=4, cells=3, stem=3).build(live, seed=0)
    plain = network(GENOTYPES[name], channels=4, layers=3, auxiliary=False, pool_norm=False)
    # beside it the supernet has a BatchNorm over its last 4 x 16 channels
    assert parameters(pruned) == parameters(plain) + 2 * 64
    found = genotype(live)
    assert sorted(found.split()) == sorted(GENOTYPES[name].split()) and from_genotype(parse(found)) == found


def test_weights_carried_over_give_the_cells_same_output():
    name = GENOTYPES["PC_DARTS_IMAGENET"]  # lower sources first in some nodes, not in others
    live = single(name)
    pruned = Supernet(channels=4, cells=3, stem=3).build(live, seed=0)
    plain = network(genotype(live), channels=4, layers=3, auxiliary=False)
    for ours, theirs in zip(pruned.cells, plain.cells, strict=True):
        theirs.load_state_dict(
            {
                key: value
                for (key, _), value in zip(theirs.state_dict().items(), ours.state_dict().values(), strict=True)
            }
        )
    before, last = torch.randn(2, 12, 8, 8), torch.randn(2, 12, 8, 8)
    torch.testing.assert_close(pruned.cells[0](before, last), plain.cells[0](before, last))


def test_text_and_back():
    live = without(without(FULL, 0, 3, (0, 1, 2)), 1, 13, tuple(range(7)))
    assert read(written(live)) == live and read(written(FULL)) == FULL
    for text in ("", "normal 0", written(FULL).replace("reduce", "other"), written(FULL).replace("0123456", "7", 1)):
        with pytest.raises(InputError, match=r"no supernet|no edge"):
            read(text)


def test_bad_input():
    for size in ({"channels": 0}, {"cells": 1}, {"stem": 0}, {"channels": True}):
        with pytest.raises(InputError, match="of the supernet"):
            Supernet(**size)
    dead = without(without(FULL, 0, 0, tuple(range(7))), 0, 1, tuple(range(7)))
    with pytest.raises(InputError, match="node 2 of the supernet has no live operation"):
        Supernet().build(dead)
    with pytest.raises(InputError, match="is not pruned"):
        genotype(FULL)
