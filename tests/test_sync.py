"""Two processes with a share of the batch each score what one process scores with the whole batch."""

import copy
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

from lswag_hooks import LSWAG, Batch, InputError, RegSwap, ZiCo, list_proxies, score
from lswag_hooks.proxies import resolve_proxies
from lswag_hooks.stats import ActivationPatterns, GradientMoments, moments_of

SAMPLES, CLASSES = 19, 4
SHARES = {"halves": 10, "unequal": 3, "almost-all": 17}  # samples of the first process; none is a multiple of eight
PROXIES = [RegSwap(mu=1.0, sigma=5.0) if name == "reg_swap" else name for name in list_proxies()]
# passes of their own are neither merged nor split
PROXIES = [one for one in PROXIES if not resolve_proxies(one)[0].passes]
PROXIES += [LSWAG(biases=True, label="biases"), LSWAG(interval=(5, 9), label="interval")]
DRAWS = {
    count: [LSWAG(granularity="batch", batches=count), ZiCo(granularity="batch", batches=count)] for count in (2, 4)
}
OPTIONS = {
    "eval": {"mode": "eval"},
    "sum": {"mode": "eval", "loss": nn.CrossEntropyLoss(reduction="sum")},
    "parts": {"mode": "eval", "max_memory": 3 << 10},  # and each share part by part
}


class Net(nn.Module):
    """Convolutions, BatchNorm with statistics, a layer that runs twice, attention, and one that the loss never sees."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6)
        self.attention = nn.MultiheadAttention(6, 2, bias=False, batch_first=True)
        self.twice, self.head, self.idle = nn.Linear(6, 6), nn.Linear(6, CLASSES), nn.Linear(6, 2)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = F.gelu(self.twice(F.silu(self.twice(x)))).mean(1)
        return self.head(x), self.idle(x)


def make_net(dtype=torch.float64):
    torch.manual_seed(1)
    net = Net()
    with torch.no_grad():
        net.norm.running_mean.uniform_(-1, 1)
        net.norm.running_var.uniform_(0.5, 2)
    return net.to(dtype)


def make_batch():
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(SAMPLES, 3, 7, 7, generator=generator, dtype=torch.float64)
    return Batch(x, torch.arange(SAMPLES) % CLASSES)


def draws(dtype=torch.float64):
    """Gradients whose mean is far from zero, activations with many equal patterns, both for all samples."""
    generator = torch.Generator().manual_seed(9)
    gradients = 100 + torch.randn(SAMPLES, 3, 5, generator=generator, dtype=torch.float64)
    gradients[:, 0, 0] = 7  # no variance at all
    outputs = torch.randn(SAMPLES, 40, generator=generator, dtype=torch.float64)
    outputs[:, 30:] = outputs[:, :10]
    return gradients.to(dtype), outputs.to(dtype)


def summary(result):
    return {
        "scores": dict(result.scores),
        "samples": result.samples,
        "parts": result.memory["parts"],
        "profile": result.profile.to_dict(),
        "zero": result.coverage.zero_gradient_share,
    }


def work(rank, folder):
    """What each process does: scores and statistics of its share; the whole is for the test to compare."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = {}
    try:
        for name, cut in SHARES.items():
            mine = slice(0, cut) if rank == 0 else slice(cut, SAMPLES)
            for option, arguments in OPTIONS.items():
                net = make_net()
                before = copy.deepcopy(net.state_dict())
                found[name, option] = summary(score(net, make_batch()[mine], PROXIES, sync=True, **arguments))
                assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
            single = make_batch().to("cpu", torch.float32)[mine]
            found[name, "float32"] = summary(score(make_net(torch.float32), single, PROXIES, sync=True, mode="eval"))
            gradients_only = score(make_net(), make_batch()[mine], ["snip", "fisher"], sync=True, mode="eval")
            found[name, "gradients"] = dict(gradients_only), gradients_only.samples
            found[name, "alone"] = summary(score(make_net(), make_batch()[mine], PROXIES, mode="eval"))
            for dtype in (torch.float64, torch.float32):
                gradients, outputs = draws(dtype)
                moments, patterns = GradientMoments(signed=True), ActivationPatterns()
                for part in gradients[mine].split(4):
                    moments.update(part)
                for part in outputs[mine].split(4):
                    patterns.update(part)
                together = moments.compute()
                found[name, "moments", dtype] = [
                    value if isinstance(value, int) else value.tolist() for value in together
                ]
                found[name, "patterns", dtype] = int(patterns.compute())
                # after a sync the share is there again, and more samples may follow
                assert sum(int(n) for n in moments.samples) == len(gradients[mine])
                moments.update(gradients[mine][:1])
                found[name, "more", dtype] = moments.compute().samples
        # two mini-batches of each process, equal ones
        mine = slice(0, 8) if rank == 0 else slice(8, 16)
        found["draws"] = dict(score(make_net(), make_batch()[mine], DRAWS[2], sync=True, mode="eval"))
        found["rejected"] = refused()
    finally:
        dist.destroy_process_group()
    torch.save(found, os.path.join(folder, f"{rank}.pt"))


def refused():
    """An argument that makes no sense is refused in every process alike, and the next score goes through."""
    try:
        score(make_net(), make_batch(), "lswag", interval=(9, 7), sync=True)
    except InputError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("sync"))
    mp.spawn(work, (folder,), nprocs=2)
    return [torch.load(os.path.join(folder, f"{rank}.pt")) for rank in range(2)]


@pytest.fixture(scope="module")
def whole():
    return summary(score(make_net(), make_batch(), PROXIES, mode="eval"))


@pytest.mark.slow
@pytest.mark.parametrize("option", [*OPTIONS, "float32"])
@pytest.mark.parametrize("shares", SHARES)
def test_shares_score_what_the_whole_batch_scores(found, whole, shares, option):
    tolerance = 1e-4 if option == "float32" else 1e-9
    for rank in range(2):
        result = found[rank][shares, option]
        assert result["scores"] == pytest.approx(whole["scores"], rel=tolerance)
        assert (result["parts"] > 1) == (option == "parts")
        assert result["samples"] == SAMPLES and result["zero"] == whole["zero"]
        for ours, theirs in zip(result["profile"]["weights"], whole["profile"]["weights"], strict=True):
            assert ours.pop("terms") == pytest.approx(theirs["terms"], rel=tolerance)
            for name in ours:
                close = pytest.approx(theirs[name], rel=tolerance) if isinstance(ours[name], float) else theirs[name]
                assert ours[name] == close, name
        assert result["profile"]["activations"] == whole["profile"]["activations"]


@pytest.mark.slow
@pytest.mark.parametrize("shares", SHARES)
def test_all_processes_agree_to_the_last_bit(found, shares):
    for option in (*OPTIONS, "float32"):
        assert found[0][shares, option]["scores"] == found[1][shares, option]["scores"]


@pytest.mark.slow
def test_mini_batches_of_all_processes_are_draws_together(found):
    wanted = dict(score(make_net(), make_batch()[:16], DRAWS[4], mode="eval"))
    for rank in range(2):
        assert found[rank]["draws"] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("shares", SHARES)
def test_proxies_of_gradients_alone(found, whole, shares):
    for rank in range(2):
        scores, samples = found[rank][shares, "gradients"]
        assert scores == pytest.approx({name: whole["scores"][name] for name in scores}, rel=1e-9)
        assert samples == SAMPLES


@pytest.mark.slow
def test_without_sync_each_process_scores_its_own_share(found):
    for name, cut in SHARES.items():
        for rank, mine in enumerate((slice(0, cut), slice(cut, SAMPLES))):
            alone = summary(score(make_net(), make_batch()[mine], PROXIES, mode="eval"))
            assert found[rank][name, "alone"]["scores"] == pytest.approx(alone["scores"], rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shares", SHARES)
def test_statistics_sync_by_themselves(found, shares, dtype):
    gradients, outputs = draws(dtype)
    wanted = moments_of(gradients.double(), signed=True)
    count = len({tuple(column.tolist()) for column in (outputs > 0).T})
    for rank in range(2):
        samples, *arrays = found[rank][shares, "moments", dtype]
        assert samples == SAMPLES
        for ours, theirs in zip(arrays, wanted[1:], strict=True):
            assert torch.allclose(torch.tensor(ours, dtype=torch.float64), theirs, rtol=1e-5, atol=0)
        assert arrays[1][0][0] == arrays[3][0][0] == 0, "a variance that is exactly zero stays so"
        assert found[rank][shares, "patterns", dtype] == count == 30
        assert found[rank][shares, "more", dtype] == SAMPLES + 2


@pytest.mark.slow
def test_a_bad_argument_is_refused_in_every_process(found):
    assert found[0]["rejected"] == found[1]["rejected"] and "interval" in found[0]["rejected"]


# ---------------------------------------------------------------- one process


def test_sync_needs_a_process_group():
    net = make_net()
    calls = []
    net.register_forward_hook(lambda module, inputs, output: calls.append(1))
    with pytest.raises(InputError, match="process group"):
        score(net, make_batch(), "lswag", sync=True)
    assert not calls


def test_a_group_of_one_changes_nothing(tmp_path, whole):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        alone = summary(score(make_net(), make_batch(), PROXIES, mode="eval", sync=True))
    finally:
        dist.destroy_process_group()
    assert alone["scores"] == pytest.approx(whole["scores"], rel=1e-12)
