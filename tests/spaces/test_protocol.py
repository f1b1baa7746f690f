"""What every search space promises, space by space."""

import numpy as np
import pytest
import torch

import lswag_hooks as lh
from lswag_hooks.errors import InputError
from lswag_hooks.spaces import count

SPACES = lh.list_spaces()
SMALL = {"nasbench101": 8, "nasbench201": 8, "darts": 16, "burgerformer": 64}  # a side that is quick; others 32


@pytest.fixture(params=SPACES)
def space(request):
    return lh.get_space(request.param)


def test_the_list_is_what_the_issue_names():
    assert SPACES == [
        "nasbench101",
        "nasbench201",
        "darts",
        "transnasbench_micro",
        "transnasbench_macro",
        "autoformer_tiny",
        "autoformer_small",
        "autoformer_base",
        "burgerformer",
    ]


def test_a_name_is_forgiving_and_an_unknown_one_is_told():
    assert lh.get_space("AutoFormer-Tiny").name == "autoformer_tiny"
    with pytest.raises(InputError, match="Did you mean 'nasbench201'"):
        lh.get_space("nasbench20")


def test_samples_are_seeded_valid_and_varied(space):
    drawn = [space.sample(seed) for seed in range(20)]
    assert drawn == [space.sample(seed) for seed in range(20)]
    assert len(set(drawn)) > 15
    assert all(space.validate(architecture) is None for architecture in drawn)


def test_genes_and_compose_are_inverse(space):
    for seed in range(20):
        architecture = space.sample(seed)
        genes = space.genes(architecture)
        asked = []

        def choose(name, options, genes=genes, asked=asked):
            assert genes[name] in list(options), f"{name}: {genes[name]!r} is none of {options}"
            asked.append(name)
            return genes[name]

        again = space.compose(choose)
        assert asked == list(genes)
        assert space.genes(again) == genes
        np.testing.assert_array_equal(space.encode(again), space.encode(architecture))


def test_mutants_differ_and_are_near(space):
    rng = np.random.default_rng(0)
    for seed in range(10):
        parent = space.sample(seed)
        child = space.mutate(parent, rng)
        assert child != parent and space.validate(child) is None
        before, after = space.genes(parent), space.genes(child)
        changed = [name for name in before if name in after and before[name] != after[name]]
        gone = set(before) ^ set(after)
        assert changed or gone
        if not space.rates and not gone:
            assert len(changed) == 1


def test_a_child_of_two_parents_takes_every_gene_from_one_of_them(space):
    rng = np.random.default_rng(0)
    for seed in range(10):
        first, second = space.sample(seed), space.sample(100 + seed)
        genes, parents = space.genes(space.crossover(first, second, rng)), (space.genes(first), space.genes(second))
        for name, value in genes.items():
            held = [parent[name] for parent in parents if name in parent]
            assert not held or value in held
    assert space.crossover(first, first, rng) in {first, space.compose(lambda name, _: space.genes(first)[name])}


def test_neighbours_are_distinct_valid_and_mutual(space):
    architecture = space.sample(3)
    near = []
    for neighbour in space.neighbours(architecture):
        near.append(neighbour)
        if len(near) == 40:
            break
    assert len(near) == len(set(near)) > 4 and architecture not in near
    for neighbour in near[:5]:
        assert space.validate(neighbour) is None
        if set(space.genes(neighbour)) == set(space.genes(architecture)):
            assert architecture in set(space.neighbours(neighbour)) or space.name == "nasbench101"


def test_encodings_have_one_length_and_tell_architectures_apart(space):
    codes = [space.encode(space.sample(seed)) for seed in range(10)]
    assert len({code.shape for code in codes}) == 1 and codes[0].ndim == 1 and codes[0].dtype == np.float64
    assert len({code.tobytes() for code in codes}) == len({space.sample(seed) for seed in range(10)})


def test_a_network_is_seeded_and_leaves_the_global_state(space):
    architecture, side = space.sample(1), SMALL.get(space.name, 32)
    before = torch.get_rng_state()
    first = space.build(architecture, num_classes=5, image_size=side, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    again = space.build(architecture, num_classes=5, image_size=side, seed=1)
    other = space.build(architecture, num_classes=5, image_size=side, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    assert first.eval()(torch.zeros(2, 3, side, side)).shape == (2, 5)


def test_the_cost_is_that_of_the_built_network(space):
    for seed in range(3):
        architecture, side = space.sample(seed), SMALL.get(space.name, 32)
        with torch.device("meta"):
            built = space.build(architecture, num_classes=7, image_size=side)
            counted = count(built.eval(), torch.empty(1, 3, side, side))
        cost = space.cost(architecture, 7, image_size=side)
        assert cost.params == counted.params == sum(p.numel() for p in built.parameters())
        assert cost.macs == counted.macs


def test_a_score_covers_every_weight(space):
    side = SMALL.get(space.name, 32)
    batch = lh.Batch.builtin("digits", size=(3, side, side), samples=4)
    loss = None
    if "class_object" in space.tasks:
        batch, loss = space.batch(batch, "class_object"), space.objective("class_object")
    net = space.build(space.sample(2), num_classes=None if loss else 10, image_size=side, seed=0)
    result = lh.score(net, batch, ["lswag", "zico"], loss=loss, seed=0)
    assert np.isfinite(result["lswag"]) and np.isfinite(result["zico"])
    assert not result.coverage.uncovered and not result.coverage.unplaced


def test_optuna_composes(space):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = []

    def objective(trial):
        found.append(space.as_optuna(trial))
        return 0.0

    study.optimize(objective, n_trials=30)
    assert found and all(space.validate(architecture) is None for architecture in found)


@pytest.mark.parametrize("nonsense", ["", "x", "12 34", None, 7])
def test_nonsense_is_refused_with_an_example(space, nonsense):
    with pytest.raises(InputError) as told:
        space.parse(nonsense)
    assert len(str(told.value)) > 20


def test_unknown_tasks_and_classes_are_refused(space):
    with pytest.raises(InputError, match="has no task 'cifar'"):
        space.build(space.sample(0), task="cifar")
    with pytest.raises(InputError, match="num_classes=0"):
        space.build(space.sample(0), num_classes=0)
