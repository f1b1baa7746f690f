"""Scores on an accelerator that is pretended, so that this runs anywhere; some tests are those of a real one."""

import gc
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from lswag_hooks import Batch, InputError, functional, latency, memory, score
from lswag_hooks.detection import survey
from lswag_hooks.devices import no_tf32, wait
from lswag_hooks.rng import preserved, seeded
from lswag_hooks.stats import agreement
from lswag_hooks.wake import wake
from tests.pretend import OnDevice, Pretended
from tests.test_gpu import (  # noqa: F401
    NETS,
    PROXIES,
    Attentive,
    cnn,
    images,
    state,
    test_codes,
    test_hooks_by_themselves,
    test_in_parts,
    test_model_and_batch_on_different_devices,
    test_moments,
    test_training_afterwards_is_the_same_as_without,
    test_verification,
    wide,
    widest,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*weights have a gradient of exactly zero")


@pytest.fixture
def memory_of_a_gpu(monkeypatch):
    """Figures that CUDA and MPS would give: 100 bytes, of which PyTorch holds 30, 20 of them in tensors."""
    figures = {"reset_peak_memory_stats": None, "max_memory_allocated": 25, "mem_get_info": (70 << 30, 100 << 30)}
    figures |= {"memory_reserved": 30 << 30, "memory_allocated": 20 << 30}
    for name, value in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    for name, value in {"recommended_max": 100, "driver_allocated": 30, "current_allocated": 20}.items():
        monkeypatch.setattr(torch.mps, f"{name}_memory", lambda value=value << 30: value)


@pytest.fixture(params=["cuda", "mps"])
def device(request, memory_of_a_gpu):
    with Pretended(request.param) as home:
        yield home.device


@pytest.fixture(params=["cnn", "attentive"])
def kind(request):
    return request.param


# ---------------------------------------------------------------- the pretence itself


def test_there_nothing_mixes_and_nothing_is_read_without_a_copy(device):
    x, here = torch.ones(2, 3, device=device), torch.ones(2, 3)
    assert isinstance(x, OnDevice) and x.device == device and not x.is_cpu and x.sum().item() == 6
    for mixed in (lambda: x + here, lambda: here.add_(x), lambda: x @ here.T, lambda: here.mul_(x[0, 0])):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    with pytest.raises(RuntimeError, match="same device"):
        torch.stack([x[0, 0], torch.tensor(1.0)])
    with pytest.raises(TypeError, match=r"Tensor\.cpu\(\)"):
        x.numpy()
    assert torch.equal((x * torch.tensor(2.0)).cpu(), 2 * here) and type(x.cpu()) is torch.Tensor
    assert torch.equal(x[torch.tensor([1])].cpu(), here[[1]]) and x[[1, 0]].tolist() == here.tolist()
    for made in (torch.zeros_like(x), x.new_zeros(2), torch.arange(3, device=device), here.to(x), x.view(-1), +x):
        assert made.device == device
    weight = nn.Linear(3, 2).to(device).weight
    (x @ weight.T).sum().backward()
    assert isinstance(weight, nn.Parameter) and weight.grad.device == device and weight.grad.tolist() == [[2.0] * 3] * 2
    if device.type == "mps":
        for double in (x.double, lambda: here.double().to(device), lambda: x.sum(dtype=torch.float64)):
            with pytest.raises(TypeError, match="float64"):
                double()
        with pytest.raises(NotImplementedError):
            torch.unique(x)


# ---------------------------------------------------------------- scores


@pytest.mark.parametrize(("name", "kind"), [("cuda", "wide"), ("mps", "cnn"), ("mps", "attentive")])
def test_every_score_is_that_of_the_cpu(name, kind, memory_of_a_gpu):
    """Also where the kernels round otherwise."""
    make, size = NETS[kind]
    dtype = widest(torch.device(name))
    batch = images(size, dtype=dtype)
    here = score(make().to(dtype), batch, PROXIES)
    with Pretended(name, rounding=dtype == torch.float64) as home:
        there = score(make().to(home.device, dtype), batch.to(home.device), PROXIES)
    assert there.reasons == here.reasons and len(here.reasons) < 6
    assert dict(there) == pytest.approx(dict(here), rel=1e-8 if dtype == torch.float64 else 1e-5, nan_ok=True)
    assert there.profile.activations == here.profile.activations
    assert there.coverage == here.coverage and there.settings == here.settings
    assert there.memory.get("peak") == (25 if name == "cuda" else None)


def test_a_flow_that_overflows_single_precision(device):
    net = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(30)), nn.ReLU(), nn.Linear(64, 2))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(1.0)
    batch = Batch(torch.rand(4, 64), torch.tensor([0, 1, 0, 1]))
    wanted = math.log(31 * 2 * 64.0**31 + 2 * 64.0**31)  # each of the 32 layers sees what flows from in to out
    there = score(net.to(device), batch.to(device), ["synflow", "params"])
    assert there["synflow"] == pytest.approx(wanted, rel=1e-2)
    assert there["synflow"] == pytest.approx(score(net.to("cpu"), batch, "synflow")["synflow"], rel=1e-12)


def test_functions_take_tensors_of_the_device(device):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 40, generator=generator)
    kernel, labels = rows @ rows.T, torch.tensor([0, 0, 1, 1, 2, 2])
    codes = torch.randint(0, 2, (6, 3), generator=generator, dtype=torch.uint8)
    calls = {
        "condition": lambda move: functional.condition_number(move(kernel)),
        "regions": lambda move: functional.linear_regions(move(codes)),
        "nwot": lambda move: functional.nwot(move(kernel)),
        "entropy": lambda move: functional.entropy(move(rows[0])),
        "gradsign": lambda move: functional.gradsign(move(rows.sign())),
        "saliency": lambda move: functional.saliency_sums(move(rows)).tolist(),
        "t_cet": lambda move: functional.t_cet.expressivity(move(kernel)),
        "jacov": lambda move: functional.jacov(move(rows)),
        "epe_nas": lambda move: functional.epe_nas(move(rows), move(labels), 3),
        "dss": lambda move: functional.dss(move(rows), move(rows), True),
    }
    for name, call in calls.items():
        assert call(lambda tensor: tensor.to(device)) == pytest.approx(call(lambda tensor: tensor), rel=1e-6), name


def test_many_signs_and_saliencies_are_summed_exactly(device):
    signs = torch.full((1 << 14, 1024), 1.0)
    signs[0, 0] = 2.0  # whole numbers above 2^24: in single precision the sum cannot be told from its neighbour
    assert functional.gradsign(signs.to(device)) == (1 << 24) + 1


def test_waking_draws_the_same_everywhere(device):
    net = cnn()
    nn.init.zeros_(net[-1].weight)
    here, _ = wake(net, seed=3)
    there, changes = wake(net.to(device), seed=3)
    assert changes and torch.equal(there[-1].weight.cpu(), here[-1].weight) and here[-1].weight.any()


def test_attention_is_counted(monkeypatch):
    """MPS has one operation, which no counter knows, for attention that no gradient has to follow."""
    plain = F.scaled_dot_product_attention

    def as_on_mps(query, *args, **options):
        if torch.is_grad_enabled() and query.requires_grad:
            return plain(query, *args, **options)
        with _disable_current_modes():
            return plain(query, *args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", as_on_mps)
    embed, project, attend, layers, head = 8 * 12 * 16, 4 * 16 * 8 * 8, 2 * 16 * 16 * 8, 2 * 16 * 8 * 8, 8 * 4
    found = score(Attentive(), images(8, dtype=torch.float32), ["flops", "params"])
    assert found["flops"] == embed + project + attend + layers + head


# ---------------------------------------------------------------- what is left


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back(device, fails):
    net, batch = cnn().to(device).train(), images(8, dtype=torch.float32).to(device)
    net[0].weight.requires_grad_(False)
    net[-1].bias.grad = torch.ones(4, device=device)
    before, drawn = state(net), torch.get_rng_state().tolist()
    if fails:
        with pytest.raises(InputError, match="targets"):
            score(net, Batch(batch.inputs, batch.targets + 4), PROXIES, mode="train", seed=5)
    else:
        score(net, batch, PROXIES, mode="train", seed=5)
    assert state(net) == before and torch.get_rng_state().tolist() == drawn


def test_nothing_is_kept_there(device):
    def held():
        gc.collect()
        return sum(type(one) is OnDevice for one in gc.get_objects())

    net, batch = wide().to(device), images(8, dtype=torch.float32).to(device)
    before = held()
    result = score(net, batch, ["lswag", "zico", "nwot", "grasp", "synflow", "te_nas_kappa", "zen"], mode="eval")
    assert held() == before and len(result) == 7


# ---------------------------------------------------------------- memory, time, random states


def test_free_memory_counts_what_pytorch_holds_for_no_tensor(memory_of_a_gpu):
    assert [memory.free_bytes(torch.device(name)) >> 30 for name in ("cuda", "mps")] == [80, 80]


def test_memory_of_which_more_is_taken_than_is_recommended(memory_of_a_gpu, monkeypatch):
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 120 << 30)
    assert memory.free_bytes(torch.device("mps")) == 0


@pytest.mark.parametrize("name", ["cuda", "mps", "cpu"])
def test_a_gpu_is_waited_for_around_each_pass_that_is_timed(name, monkeypatch):
    told = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: told.append("cuda"))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: told.append("mps"))
    latency.median_seconds(lambda: told.append("pass"), torch.device(name), repeats=1, warmup=1)
    waits = [name] if name != "cpu" else []
    assert told == [*waits, "pass", *waits] * 2
    assert survey.wait is latency.wait is wait


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_random_states_of_the_device_survive_and_follow_the_seed(name, monkeypatch):
    there = torch.Generator().manual_seed(8)
    fakes = {"get_rng_state": there.get_state, "set_rng_state": there.set_state, "manual_seed": there.manual_seed}
    if name == "cuda":
        fakes = {
            "get_rng_state_all": lambda: [there.get_state()],
            "set_rng_state_all": lambda states: there.set_state(states[0]),
            "manual_seed_all": there.manual_seed,
            "is_initialized": lambda: True,
        }
    else:
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for key, value in fakes.items():
        monkeypatch.setattr(getattr(torch, name), key, value)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(8))
    with preserved():
        torch.rand(5, generator=there)
    with seeded(1):
        first = torch.rand(3, generator=there)
    with pytest.raises(KeyboardInterrupt), seeded(1):
        assert torch.equal(torch.rand(3, generator=there), first)
        raise KeyboardInterrupt
    assert torch.equal(torch.rand(3, generator=there), expected)


# ---------------------------------------------------------------- settings of the caller's


def test_another_default_device():
    """What makes a tensor of its own says where; one on the meta device would have no values."""
    net, batch = cnn().eval(), images(8, dtype=torch.float32)
    wanted = score(net, batch, PROXIES, seed=1)
    with torch.device("meta"):
        found = score(net, batch, PROXIES, seed=1)
        made = Batch.builtin("digits", size=8, samples=4), Batch.builtin("noise", size=8, samples=4)
    assert found.reasons == wanted.reasons
    assert dict(found) == pytest.approx(dict(wanted), rel=1e-12, nan_ok=True)
    assert all(batch.device.type == batch.targets.device.type == "cpu" for batch in made)


def test_codes_are_counted_exactly_inside_autocast():
    outputs = torch.randn(8, 5000)  # counts above 256 have no bfloat16 of their own
    with torch.autocast("cpu", torch.bfloat16):
        found = agreement(outputs)
    code = (outputs > 0).long()
    assert torch.equal(found, (code @ code.T + (1 - code) @ (1 - code).T).double())


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x):
        return self.layers(x).mean(1)


def test_statistics_are_taken_outside_the_caller_s_autocast():
    """Autocast is for the forward pass; per-sample gradients and their moments keep single precision."""

    class Inside:
        is_objective, reduction = True, "mean"

        def __call__(self, model, batch):
            with torch.autocast("cpu", torch.bfloat16):
                return F.cross_entropy(model(batch.inputs), batch.targets)

    net, batch = Positions(), Batch(torch.randn(8, 6, 12), torch.arange(8) % 4)
    proxies = ["lswag", "zico", "grad_norm", "fisher", "nwot"]
    wanted = score(net, batch, proxies, Inside())
    with torch.autocast("cpu", torch.bfloat16):
        found = score(net, batch, proxies)
    assert dict(found) == pytest.approx(dict(wanted), rel=1e-6)
    assert found["zico"] != pytest.approx(score(net, batch, "zico")["zico"], rel=1e-7)  # the forward pass is in it


@pytest.mark.parametrize("allowed", [(False, True), (True, True), (False, False)])
def test_verification_of_products_does_without_tf32(allowed):
    parts = torch.backends.cuda.matmul, torch.backends.cudnn
    kept = [part.allow_tf32 for part in parts]
    try:
        for part, flag in zip(parts, allowed, strict=True):
            part.allow_tf32 = flag
        with pytest.raises(KeyboardInterrupt), no_tf32(torch.device("cuda")):
            assert [part.allow_tf32 for part in parts] == [False, False]
            raise KeyboardInterrupt
        assert tuple(part.allow_tf32 for part in parts) == allowed
        with no_tf32(torch.device("cpu")):
            assert tuple(part.allow_tf32 for part in parts) == allowed
    finally:
        for part, flag in zip(parts, kept, strict=True):
            part.allow_tf32 = flag
