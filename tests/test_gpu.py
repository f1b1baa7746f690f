"""On an accelerator scores are those of the CPU, and nothing there is changed either; skipped where there is none.

test_devices.py runs the same tests on an accelerator that is pretended: what they import from here takes its device and
its networks from fixtures.
"""

import copy
import functools
import gc
import math
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from lswag_hooks import LSWAG, Batch, InputError, ProbeSession, RegSwap, ZiCo, list_proxies, score
from lswag_hooks.hooks import ActivationHooks, GradientHooks
from lswag_hooks.objective import resolve_objective
from lswag_hooks.stats import ActivationPatterns, agreement, count_distinct, merge_moments, moments_of, pack, unpack
from lswag_hooks.verify import verify_gradients

pytestmark = pytest.mark.gpu

CLASSES = 4
PROXIES = [RegSwap(mu=1.0, sigma=5.0) if name == "reg_swap" else name for name in list_proxies()]
PROXIES += [
    LSWAG(biases=True, label="biases"),
    LSWAG(interval=(5, 9), label="interval"),
    LSWAG(granularity="batch", label="draws"),
    ZiCo(granularity="batch", label="zico-draws"),
]


def is_real(device):
    return torch.cuda.is_available() if device.type == "cuda" else torch.backends.mps.is_available()


@pytest.fixture(params=["cuda", "mps"])
def device(request):
    device = torch.device(request.param, 0)
    if not is_real(device):
        pytest.skip(f"no {device.type} device")
    return device


@pytest.fixture(params=["cnn", "wide", "attentive", "swin"])
def kind(request):
    return request.param


@pytest.fixture(autouse=True)
def _no_tensor_cores():
    """Products in full single precision, and one algorithm a convolution."""
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = kept


def widest(device):
    """The most precise type that a device has."""
    return torch.float32 if device.type == "mps" else torch.float64


def cnn():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3, stride=2, groups=2, bias=False),
        nn.GELU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(8 * 9, CLASSES),
    )


def wide():
    """Channels enough for the other route of convolutions."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(2304, CLASSES),
    )


class Attentive(nn.Module):
    """Attention over interleaved rows, without biases (the gradient of a key's bias is rounding and nothing else)."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 2, stride=2)
        self.attention = nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
        self.twice, self.head = nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(F.gelu(self.twice(F.silu(self.twice(x)))).mean(1))


def attentive():
    torch.manual_seed(1)
    return Attentive()


def swin():
    torch.manual_seed(1)
    return timm.models.SwinTransformer(
        img_size=32, patch_size=4, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(1, 2), num_classes=CLASSES
    )


NETS = {"cnn": (cnn, 8), "wide": (wide, 8), "attentive": (attentive, 8), "swin": (swin, 32)}


def images(size, samples=11, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(samples, 3, size, size, generator=generator, dtype=torch.float64)
    return Batch(x.to(dtype), torch.arange(samples) % CLASSES)


def both(device, kind, dtype, proxies, **options):
    """Scores on the CPU and on the device."""
    make, size = NETS[kind]
    batch = images(size, dtype=dtype)
    here = score(make().to(dtype), batch, proxies, **options)
    there = score(make().to(device, dtype), batch.to(device), proxies, **options)
    return here, there


@pytest.mark.parametrize("mode", ["score", "eval"])
def test_double_precision(device, kind, mode):
    if widest(device) != torch.float64:
        pytest.skip("no double precision there")
    proxies = [proxy for proxy in PROXIES if kind != "swin" or getattr(proxy, "label", "") != "biases"]
    here, there = both(device, kind, torch.float64, proxies, mode=mode)
    assert there.reasons == here.reasons
    for name in here:
        assert there[name] == pytest.approx(here[name], rel=1e-8, nan_ok=True), name
    for ours, theirs in zip(there.profile.weights, here.profile.weights, strict=True):
        assert (ours.name, ours.alive, ours.zero) == (theirs.name, theirs.alive, theirs.zero)
        assert ours.trainability == pytest.approx(theirs.trainability, rel=1e-8)
    assert there.profile.activations == here.profile.activations
    assert there.settings["batch"] == here.settings["batch"]
    assert device.type != "cuda" or there.memory["peak"] > 0


def test_single_precision(device, kind):
    here, there = both(
        device, kind, torch.float32, ["lswag", "zico", "grad_norm", "snip", "fisher", "l2_norm", "params"]
    )
    for name in here:
        assert there[name] == pytest.approx(here[name], rel=1e-2), name
    # a unit next to zero may fall on the other side
    here, there = both(device, kind, torch.float32, ["swap", "nwot"])
    for name in here:
        assert there[name] == pytest.approx(here[name], rel=2e-2), name


def test_same_seed_same_score(device):
    net, batch = cnn().to(device), images(8, dtype=torch.float32).to(device)
    first, second = (dict(score(net, batch, PROXIES, seed=4, mode="train")) for _ in range(2))
    assert first == pytest.approx(second, rel=1e-5, nan_ok=True)
    assert sum(map(math.isnan, first.values())) == 2  # no attention; made for one size of images


def test_in_parts(device, kind):
    make, size = NETS[kind]
    net, batch = make().to(device, widest(device)), images(size, dtype=widest(device)).to(device)
    proxies = ["lswag", "zico", "fisher", "snip", "swap", "nwot"]
    whole = score(net, batch, proxies, mode="eval")
    limit, parts = 1 << 24, whole
    while parts.memory["parts"] == 1:
        limit //= 2
        parts = score(net, batch, proxies, mode="eval", max_memory=limit)
    rel = 1e-6 if widest(device) == torch.float64 else 1e-3
    assert dict(parts) == pytest.approx(dict(whole), rel=rel)


def test_verification(device, kind):
    make, size = NETS[kind]
    net, batch = make().to(device, widest(device)), images(size, samples=5, dtype=widest(device)).to(device)
    rows = verify_gradients(net, batch, resolve_objective(net))
    assert rows and all(row.passed and row.sample_error is not None for row in rows), rows


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(device, dtype):
    net, batch = cnn().to(device), images(8, dtype=torch.float32).to(device)
    wanted = score(net, batch, ["lswag", "swap"], mode="eval")
    with torch.autocast(device.type, dtype):
        found = score(net, batch, ["lswag", "swap"], mode="eval")
    assert dict(found) == pytest.approx(dict(wanted), rel=0.1, nan_ok=True)
    assert found.coverage.weight_share == 1


# ---------------------------------------------------------------- what is left


def state(net):
    tensors = {
        name: (tensor.data_ptr(), tensor.device, tensor.cpu().numpy().tobytes())
        for name, tensor in net.state_dict().items()
    }
    grads = [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in net.parameters()]
    flags = [(module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in net.modules()]
    return tensors, grads, flags


def generators(device):
    return [
        kept.get_rng_state().tolist()
        for kept in (torch, getattr(torch, device.type))
        if kept is torch or is_real(device)
    ]


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("mode", ["score", "train", "eval"])
@pytest.mark.parametrize("fails", [False, True])
def test_state_and_random_states_are_restored(device, mode, seed, fails):
    net, batch = cnn().to(device).train(), images(8, dtype=torch.float32).to(device)
    net[0].weight.requires_grad_(False)
    net[-1].bias.grad = torch.ones(CLASSES, device=device)
    torch.manual_seed(8)
    torch.rand(3, device=device)
    before, random = state(net), generators(device)
    if fails:
        with pytest.raises(InputError):
            score(net, Batch(batch.inputs, batch.targets + CLASSES), PROXIES, mode=mode, seed=seed)
    else:
        score(net, batch, PROXIES, mode=mode, seed=seed)
    assert state(net) == before
    assert generators(device) == random


def test_a_session_restores_the_random_state_of_the_device(device):
    net = nn.Linear(2, 2).to(device)
    random = generators(device)
    with ProbeSession(net, seed=1):
        first = torch.rand(3, device=device)
    with ProbeSession(net, seed=1):
        second = torch.rand(3, device=device)
    assert torch.equal(first, second) and generators(device) == random


def test_training_afterwards_is_the_same_as_without(device):
    def train(net, interlude):
        torch.manual_seed(11)
        optimiser = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        batch = images(8, dtype=torch.float32).to(device)
        net.train()
        for _ in range(3):
            interlude(net)
            optimiser.zero_grad()
            F.cross_entropy(net(batch.inputs), batch.targets).backward()
            optimiser.step()
        return state(net)[0], generators(device)

    start = cnn()
    batch = images(8, dtype=torch.float32).to(device)
    plain = train(copy.deepcopy(start).to(device), lambda net: None)
    scored = train(copy.deepcopy(start).to(device), lambda net: score(net, batch))
    assert {name: value[2] for name, value in plain[0].items()} == {name: value[2] for name, value in scored[0].items()}
    assert plain[1] == scored[1]


def allocated(device):
    gc.collect()
    return torch.mps.current_allocated_memory() if device.type == "mps" else torch.cuda.memory_allocated(device)


def test_nothing_is_kept_on_the_device(device):
    net, batch = wide().to(device), images(8, dtype=torch.float32).to(device)
    score(net, batch, PROXIES, mode="eval")  # what libraries set aside on first use
    held = allocated(device)
    for _ in range(2):
        score(net, batch, PROXIES, mode="eval")
    assert allocated(device) <= held


# ---------------------------------------------------------------- refusals and parts


@pytest.mark.parametrize("model_there", [True, False])
def test_model_and_batch_on_different_devices(device, model_there):
    net, batch = cnn(), images(8, dtype=torch.float32)
    net, batch = (net.to(device), batch) if model_there else (net, batch.to(device))
    with pytest.raises(InputError, match=r"the model is on .*, the batch on .*batch.to"):
        score(net, batch)


def test_batch_to_a_device_named_without_a_number(device):
    net, batch = cnn().to(device.type), images(8, dtype=torch.float32).to(device.type)
    assert score(net, batch)["lswag"] > 0


@pytest.mark.parametrize("samples", [3, 16, 64, 70])
def test_codes(device, samples):
    outputs = torch.randn(samples, 50, device=device).repeat(1, 2)
    packed, there = pack(outputs), pack(outputs.cpu())
    assert torch.equal(packed.cpu(), there) and torch.equal(unpack(packed, samples), outputs > 0)
    assert count_distinct(packed) == count_distinct(there)
    assert torch.equal(agreement(outputs).cpu(), agreement(outputs.cpu()))
    metric = ActivationPatterns().to(device)
    for part in outputs.split(5):
        metric.update(part)
    assert int(metric.compute()) == count_distinct(there)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments(device, dtype):
    if dtype == torch.float64 != widest(device):
        pytest.skip("no double precision there")
    gradients = (1000 + 0.01 * torch.randn(32, 6, 5, dtype=torch.float64)).to(dtype)
    wanted = moments_of(gradients.double(), signed=True)
    there = gradients.to(device)
    pieces = [moments_of(piece, signed=True, partial=True) for piece in there.split(5)]
    for found in moments_of(there, signed=True), functools.reduce(merge_moments, pieces):
        for ours, theirs in zip(found[1:], wanted[1:], strict=True):
            assert torch.allclose(ours.cpu().double(), theirs, rtol=1e-4)


def test_hooks_by_themselves(device):
    net, batch = swin().to(device, widest(device)).eval(), images(32, samples=3, dtype=widest(device))
    there = batch.to(device)
    with GradientHooks(net) as hooks, ActivationHooks(net, samples=3) as activations:
        found = dict(hooks.per_sample(F.cross_entropy(net(there.inputs), there.targets), 3))
    assert hooks.uncovered == {} and activations.codes
    for gradients in found.values():
        assert gradients.device == device
    alone = F.cross_entropy(net(there.inputs[1:2]), there.targets[1:2])
    wanted = torch.autograd.grad(alone, net.head.fc.weight)[0]
    rtol, atol = (1e-8, 1e-12) if widest(device) == torch.float64 else (1e-4, 1e-6)
    assert torch.allclose(found["head.fc"][1], wanted, rtol=rtol, atol=atol)


def test_waking_on_the_device(device):
    net, batch = timm.create_model("resnet18", num_classes=CLASSES), images(96, samples=4, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        here = score(net, batch, ["lswag", "params"], init="wake")
        there = score(net.to(device), batch.to(device), ["lswag", "params"], init="wake")
    assert there.changes == here.changes
    assert there["lswag"] == pytest.approx(here["lswag"], rel=1e-2)
