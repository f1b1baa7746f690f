"""`max_memory=`: a batch that does not fit is scored in parts, to the same result, or refused with the way out."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lswag_hooks import LSWAG, Batch, InputError, ProbeSession, RegSwap, ZiCo, list_proxies, rank, score
from lswag_hooks.memory import budget, container_bytes, free_bytes, parse_bytes
from lswag_hooks.proxies import resolve_proxies

CLASSES = 4
PROXIES = {name: RegSwap(mu=1.0, sigma=5.0) if name == "reg_swap" else name for name in list_proxies()}
# passes of their own are not split
PROXIES = {name: one for name, one in PROXIES.items() if not resolve_proxies(one)[0].passes}
PROXIES["lswag-biases"] = LSWAG(biases=True)
PROXIES["lswag-interval"] = LSWAG(interval=(5, 9))
PROXIES["lswag-feeding"] = LSWAG(pairing="feeding")
PROXIES["lswag-batch"] = LSWAG(granularity="batch", batches=3)
PROXIES["zico-batch"] = ZiCo(granularity="batch", batches=2)


class Sizes:
    """Batch sizes of the forward passes that a model really finishes."""

    def __init__(self, model):
        self.seen = []
        model.register_forward_hook(lambda module, inputs, output: self.seen.append(len(output)))


class Folded(nn.Module):
    """Attention, whose rows are interleaved, a layer that runs twice, and one without a bias."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 8, bias=False)
        # without biases: the gradient of a key's bias is rounding and nothing else, and so would be its deviation
        self.attention = nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.twice = nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = self.twice(F.gelu(self.twice(self.norm(x))))
        return self.head(F.silu(x).mean(1))


def cnn(norm=False):
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, groups=2, bias=False), nn.GELU()]
    if norm:
        layers.insert(1, nn.BatchNorm2d(6))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(72, 10), nn.ReLU(), nn.Linear(10, CLASSES)).double()


def folded():
    torch.manual_seed(1)
    return Folded().double()


SHAPES = {"cnn": (3, 8, 8), "norm": (3, 8, 8), "folded": (5, 6)}
NETS = {"cnn": cnn, "norm": lambda: cnn(norm=True), "folded": folded}


def make_batch(kind, samples, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(samples, *SHAPES[kind], generator=generator, dtype=torch.float64).to(dtype)
    return Batch(x, torch.arange(samples) % CLASSES)


def held(net, batch):
    """Bytes of the outputs of innermost modules in one forward pass, each piece of memory once."""
    sizes, kept = [], []

    def note(module, inputs, output):
        output = output[0] if isinstance(output, tuple) else output
        if output.data_ptr() not in {one.data_ptr() for one in kept}:
            sizes.append(output.numel() * output.element_size())
        kept.append(output)

    handles = [module.register_forward_hook(note) for module in net.modules() if not module._modules]
    with ProbeSession(net, "eval"):
        net(batch.inputs)
    for handle in handles:
        handle.remove()
    return sum(sizes)


def same(ours, theirs, tolerance):
    """Equal, numbers to the tolerance."""
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key], tolerance) for key in theirs)
    return ours == (pytest.approx(theirs, rel=tolerance, nan_ok=True) if isinstance(theirs, float) else theirs)


def close(found, wanted, tolerance=1e-6):
    """The same scores, and the same profile behind them."""
    assert found.reasons == wanted.reasons
    for name in wanted:
        assert same(found[name], wanted[name], tolerance), name
    for ours, theirs in zip(found.profile.weights, wanted.profile.weights, strict=True):
        assert same(vars(ours), vars(theirs), tolerance), f"{ours} is not {theirs}"
    assert found.profile.activations == wanted.profile.activations
    assert list(found) == list(wanted) and found.samples == wanted.samples
    ours, theirs = found.coverage.to_dict(), wanted.coverage.to_dict()
    assert sorted(ours.pop("dead")) == sorted(theirs.pop("dead"))
    assert same(ours, theirs, tolerance)


# ---------------------------------------------------------------- the argument


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, None),
        (1, 1),
        (2048, 2048),
        (1.5, 1),
        (2e9, 2_000_000_000),
        ("100", 100),
        ("100b", 100),
        ("1k", 1 << 10),
        ("1K", 1 << 10),
        ("1.5kB", 1536),
        ("3 MB", 3 << 20),
        ("3MiB", 3 << 20),
        (" 4gb ", 4 << 30),
        ("4GiB", 4 << 30),
        ("0.5t", 1 << 39),
        ("1e3", 1000),
    ],
)
def test_bytes(given, wanted):
    assert parse_bytes(given) == wanted


@pytest.mark.parametrize(
    "given", [0, -1, "0", "-3GB", "", "GB", "4 giga", "four", "1 2", "4XB", math.nan, math.inf, "nan", "inf", "1e999"]
)
def test_bytes_that_make_no_sense(given):
    with pytest.raises(InputError, match="max_memory"):
        parse_bytes(given)


@pytest.mark.parametrize("given", [[4], {"cpu": 4}, b"4GB"])
def test_bytes_of_another_type(given):
    with pytest.raises(InputError, match="max_memory"):
        parse_bytes(given)


def test_a_bad_budget_is_refused_before_any_work():
    net = cnn()
    sizes = Sizes(net)
    with pytest.raises(InputError, match="max_memory"):
        score(net, make_batch("cnn", 4), max_memory="much")
    assert sizes.seen == []


def test_default_budget_is_a_share_of_what_is_free():
    free = free_bytes(torch.device("cpu"))
    assert free is None or free > 1 << 20
    if free is not None:
        assert 0 < budget(torch.device("cpu"), None) < free * 1.5  # others use memory meanwhile
    assert budget(torch.device("cpu"), 17) == 17
    assert free_bytes(torch.device("meta")) is None and budget(torch.device("meta"), None) is None


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, None),
        ({"memory.max": "max", "memory.current": "100", "memory.stat": "inactive_file 40"}, None),
        ({"memory.max": "1000", "memory.current": "100", "memory.stat": "anon 60\ninactive_file 40"}, 940),
        (
            {
                "memory/memory.limit_in_bytes": "1000",
                "memory/memory.usage_in_bytes": "300",
                "memory/memory.stat": "cache 9",
            },
            700,
        ),
    ],
)
def test_the_limit_of_a_container_counts(tmp_path, files, wanted):
    (tmp_path / "memory").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    assert container_bytes(tmp_path) == wanted


# ---------------------------------------------------------------- in parts


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("proxy", PROXIES)
def test_in_parts_each_proxy_scores_the_same(proxy, kind):
    batch = make_batch(kind, 19)
    whole = score(NETS[kind](), batch, PROXIES[proxy], mode="eval")
    net = NETS[kind]()
    limit = held(net, batch)
    sizes = Sizes(net)
    parts = score(net, batch, PROXIES[proxy], mode="eval", max_memory=limit // 3)
    close(parts, whole)
    if proxy in ("params", "l2_norm", "depth", "log_size"):
        assert sizes.seen == []
    elif proxy in ("flops", "az_complexity"):
        assert sizes.seen == [1]
    else:
        assert max(sizes.seen) < 19


ALL = list(PROXIES.values())
ALL[-5:] = [
    LSWAG(biases=True, label="biases"),
    LSWAG(interval=(5, 9), label="interval"),
    LSWAG(pairing="feeding", label="feeding"),
    LSWAG(granularity="batch", batches=2, label="draws"),
    ZiCo(granularity="batch", batches=2, label="zico-draws"),
]


@pytest.mark.parametrize("share", [2, 5, 30])
@pytest.mark.parametrize("samples", [2, 3, 7, 8, 9, 16, 17, 23, 70])
def test_in_parts_of_any_size_all_proxies_score_the_same(samples, share):
    net, batch = cnn(), make_batch("cnn", samples)
    each = -(-held(net, batch) // samples)
    limit = max(each, held(net, batch) // share)  # one sample always fits
    whole = score(net, batch, ALL, mode="eval")
    sizes = Sizes(net)
    parts = score(net, batch, ALL, mode="eval", max_memory=limit)
    close(parts, whole)
    main = sizes.seen[: len(sizes.seen) - 3]  # without mini-batches, which are asked for, and the count of one sample
    assert len(main) > 1 and sum(main) == samples
    assert max(main) * each <= limit
    assert all(size % 8 == 0 for size in main[:-1]) or main[0] < 8
    assert parts.memory["parts"] == len(main)


@pytest.mark.parametrize("kind", NETS)
def test_parts_of_single_samples(kind):
    batch = make_batch(kind, 5)
    net = NETS[kind]()
    whole = score(net, batch, ALL, mode="eval")
    sizes = Sizes(net)
    parts = score(net, batch, ALL, mode="eval", max_memory=held(net, batch[:1]))
    assert sizes.seen[:5] == [1] * 5
    close(parts, whole)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reductions_of_the_loss_in_parts(reduction):
    net, batch = cnn(), make_batch("cnn", 13)
    loss = nn.CrossEntropyLoss(reduction=reduction)
    whole = score(net, batch, ALL, loss=loss, mode="eval")
    close(score(net, batch, ALL, loss=loss, mode="eval", max_memory=held(net, batch) // 2), whole)
    close(whole, score(net, batch, ALL, mode="eval"))


def test_single_precision_in_parts():
    batch = make_batch("cnn", 21, torch.float32)
    net = cnn().float()
    whole = score(net, batch, ALL, mode="eval")
    close(score(net, batch, ALL, mode="eval", max_memory=held(net, batch) // 4), whole, 2e-4)


def test_dictionaries_and_tuples_are_split_too():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 5), nn.Linear(3, 5), nn.Linear(5, CLASSES)

        def forward(self, x, y, scale):
            return self.head(torch.relu(self.a(x) + self.b(y)) * scale)

    net = Two().double()
    x, y, scale = torch.randn(11, 4).double(), torch.randn(11, 3).double(), torch.rand(5).double()  # shared by all
    targets = torch.arange(11) % CLASSES
    whole = score(net, Batch((x, y, scale), targets), ALL, mode="eval")
    for inputs in ((x, y, scale), {"x": x, "y": y, "scale": scale}):
        sizes = Sizes(net)
        parts = score(net, Batch(inputs, targets), ALL, mode="eval", max_memory=11 * 14 * 8 // 2)
        assert max(sizes.seen) < 11
        close(parts, whole)


def test_weights_without_gradients_in_parts():
    net = cnn()
    with torch.no_grad():
        net[-1].weight.zero_()
    batch = make_batch("cnn", 13)
    with pytest.warns(UserWarning, match="exactly zero"):
        whole = score(net, batch, ALL, mode="eval")
    with pytest.warns(UserWarning, match="exactly zero"):
        parts = score(net, batch, ALL, mode="eval", max_memory=held(net, batch) // 2)
    close(parts, whole)
    assert set(parts.coverage.dead) == {"0", "2", "5"}


def test_layer_that_the_loss_does_not_reach_in_parts():
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.head, self.idle = nn.Linear(4, 6), nn.Linear(6, CLASSES), nn.Linear(6, 2)

        def forward(self, x):
            x = torch.relu(self.main(x))
            return self.head(x), self.idle(x)

    net, batch = Beside().double(), Batch(torch.randn(13, 4).double(), torch.arange(13) % CLASSES)
    with pytest.warns(UserWarning, match="only 80%"):
        whole = score(net, batch, ALL, mode="eval")
    with pytest.warns(UserWarning, match="only 80%"):
        close(score(net, batch, ALL, mode="eval", max_memory=13 * 12 * 8 // 3), whole)


def test_equal_samples_have_no_variance_in_parts_either():
    """A variance that is exactly zero must stay exactly zero when parts are joined."""
    batch = make_batch("cnn", 2)
    same = Batch(batch.inputs[:1].repeat(19, 1, 1, 1), batch.targets[:1].repeat(19))
    for dtype in (torch.float64, torch.float32):
        net = cnn().to(dtype)
        there = same.to("cpu", dtype)
        found = score(net, there, ["lswag", "zico", "snip"], mode="eval", max_memory=held(net, there) // 19)
        assert [row.alive for row in found.profile.weights] == [0] * 4
        assert found["lswag"] == found["zico"] == 0.0


def test_a_generous_budget_changes_nothing():
    net, batch = cnn(), make_batch("cnn", 9)
    sizes = Sizes(net)
    found = score(net, batch, ALL[:4], mode="eval", max_memory="1GB")
    assert sizes.seen == [9] and found.memory["parts"] == 1
    assert dict(found) == dict(score(net, batch, ALL[:4], mode="eval"))


def test_memory_bound_is_exact_at_the_edge():
    net, batch = cnn(), make_batch("cnn", 12)
    bytes_held = held(net, batch)
    sizes = Sizes(net)
    score(net, batch, "swap", mode="eval", max_memory=bytes_held)
    assert sizes.seen == [12]
    score(net, batch, "swap", mode="eval", max_memory=bytes_held - 1)
    assert sizes.seen == [12, 6, 6]


@pytest.mark.parametrize(
    "more", [[nn.ReLU(inplace=True)], [nn.Identity()], [nn.Dropout()], [nn.Unflatten(1, (2, 4)), nn.Flatten()]]
)
def test_what_is_in_place_or_a_view_takes_no_memory(more):
    net = nn.Sequential(nn.Linear(6, 8), *more, nn.Linear(8, CLASSES)).double()
    batch = Batch(torch.randn(12, 6).double(), torch.arange(12) % CLASSES)
    sizes, bytes_held = Sizes(net), 12 * (8 + CLASSES) * 8
    score(net, batch, "zico", mode="eval", max_memory=bytes_held)
    assert sizes.seen == [12]
    score(net, batch, "zico", mode="eval", max_memory=bytes_held - 1)
    assert sizes.seen == [12, 6, 6]


# ---------------------------------------------------------------- that cannot be split


@pytest.mark.parametrize("mode", ["score", "train"])
def test_batch_norm_in_batch_mode_cannot_be_split(mode):
    net, batch = cnn(norm=True), make_batch("norm", 12)
    with pytest.raises(InputError, match=re.escape("BatchNorm (1) joins its samples")) as raised:
        score(net, batch, mode=mode, max_memory=held(net, batch) // 2)
    assert "mode='eval'" in str(raised.value) and "raise max_memory" in str(raised.value)
    assert score(net, batch, mode=mode, max_memory=2 * held(net, batch))["lswag"] > 0


def test_batch_norm_without_running_statistics_cannot_be_split_in_evaluation_mode_either():
    net, batch = cnn(norm=True), make_batch("norm", 12)
    net[1] = nn.BatchNorm2d(net[1].num_features, track_running_stats=False, dtype=torch.float64)
    with pytest.raises(InputError, match=re.escape("BatchNorm (1) joins its samples")):
        score(net, batch, mode="eval", max_memory=held(net, batch) // 2)
    assert score(net, batch, mode="eval").coverage.coupled == 1


def test_batch_norm_of_running_statistics_can_be_split():
    net, batch = cnn(norm=True), make_batch("norm", 12)
    with torch.no_grad():
        net[1].running_mean.uniform_(-1, 1)
        net[1].running_var.uniform_(1, 2)
    whole = score(net, batch, ALL, mode="eval")
    close(score(net, batch, ALL, mode="eval", max_memory=held(net, batch) // 3), whole)


def test_a_single_sample_that_does_not_fit():
    net, batch = cnn(), make_batch("cnn", 12)
    with pytest.raises(InputError, match=r"1 samples? holds? more than.*raise max_memory"):
        score(net, batch, mode="eval", max_memory=held(net, batch[:1]) - 1)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert math.isfinite(score(net, batch)["lswag"])


def test_a_model_that_catches_everything_does_not_hide_the_budget():
    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.narrow, self.head = nn.Linear(4, 64), nn.Linear(4, 64), nn.Linear(64, CLASSES)

        def forward(self, x):
            try:
                x = self.wide(x)
            except Exception:
                x = self.narrow(x)
            return self.head(x.relu())

    net, batch = Stubborn().double(), Batch(torch.randn(12, 4).double(), torch.arange(12) % CLASSES)
    with pytest.warns(UserWarning, match="only 67%"):
        whole = score(net, batch, ["lswag", "snip"], mode="eval")
    with pytest.warns(UserWarning, match="only 67%"):
        close(score(net, batch, ["lswag", "snip"], mode="eval", max_memory=12 * 68 * 8 // 2), whole)


@pytest.mark.parametrize("kind, asked", [("cnn", ["nwot", "jacov"]), ("norm", ["nwot"]), ("cnn", ["grasp", "params"])])
def test_a_store_tries_again_what_memory_refused(tmp_path, kind, asked):
    """More of it may be free another time, or asked for."""

    def scores(**options):
        (row,) = rank({"net": NETS[kind]}, make_batch(kind, 16), asked, progress=False, **options).rows
        return row.scores

    kept = tmp_path / "scores.db"
    assert any(map(math.isnan, scores(store=kept, max_memory="10KB").values()))
    assert scores(store=kept, max_memory="1GB") == scores()


def test_a_network_that_is_called_twice_in_a_step_holds_both():
    from lightning.pytorch import LightningModule

    class Twice(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = NETS["cnn"]()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, index):
            return F.cross_entropy(self(batch[0]) + self(batch[0]), batch[1])

    model, batch = Twice(), make_batch("cnn", 16)
    both = 2 * held(model.net, batch)
    for limit, in_parts in ((both, False), (both - 8, True)):
        seen = Sizes(model).seen
        score(model, batch, "snip", max_memory=limit)
        assert (8 in seen) == in_parts
