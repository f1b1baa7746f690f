"""After scoring, a model and all random generators are bit for bit what they were: every proxy, every way to fail."""

import contextlib
import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lswag_hooks import LSWAG, Batch, InputError, ProbeSession, RegSwap, ZiCo, list_proxies, score
from lswag_hooks.proxies import (
    TCET,
    AZExpressivity,
    AZProgressivity,
    AZTrainability,
    NASGraph,
    OwnPass,
    SynFlow,
    TENASKappa,
    TENASRegions,
    XiGSNR,
    Zen,
    proxy_class,
)

MODES = ("score", "train", "eval")


class Swish(torch.autograd.Function):
    """Fails on the way back, where most of a session is already set up."""

    @staticmethod
    def forward(ctx, x):
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, gradient):
        raise ArithmeticError("no way back")


class Net(nn.Module):
    """Convolution, BatchNorm, dropout, tied and frozen weights, buffers, noise of every generator, notes of its own."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.3)
        self.narrow = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
        self.fc = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.fc.weight
        self.head = nn.Linear(4, 3)
        self.unused = nn.Linear(2, 2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("last", None)
        self.history = None
        self.fails = None

    def forward(self, x):
        self.calls += 1
        self.history = x.shape
        self.fresh = torch.ones(1)
        x = x + 0.01 * random.random() + 0.01 * float(np.random.rand()) + 0.01 * torch.rand(1)
        x = self.drop(self.act(self.norm(self.conv(x)))).mean((2, 3))
        if self.fails == "forward":
            raise ArithmeticError("no way forward")
        if self.fails == "interrupt":
            raise KeyboardInterrupt
        if self.fails == "backward":
            x = Swish.apply(x)
        x = F.gelu(self.tied(F.gelu(self.fc(self.narrow(x)))))
        return self.head(x) * (float("nan") if self.fails == "nan" else 1.0)


def mixed(net):
    """Training flags of all kinds, a frozen parameter, gradients here and there, hooks of the user's own."""
    net.train()
    net.norm.eval()
    net.tied.eval()
    net.conv.weight.requires_grad_(False)
    net.head.weight.grad = torch.randn(3, 4)
    net.fc.bias.grad = torch.randn(4)
    net.seen = []
    net.fc.register_forward_hook(lambda module, args, output: None)
    net.head.weight.register_hook(lambda gradient: None)
    return net


def make_batch(samples=6):
    generator = torch.Generator().manual_seed(3)
    return Batch(torch.randn(samples, 3, 6, 6, generator=generator), torch.arange(samples) % 3)


def bits(tensor):
    if tensor is None:
        return None
    plain = tensor.detach().contiguous()
    return (tensor.dtype, tuple(tensor.shape), tensor.stride(), plain.reshape(-1).view(torch.uint8).numpy().tobytes())


HOOKS = [
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
]


def picture(net):
    """Everything that could change, identity of tensors included."""
    parameters = {
        name: (id(p), p.data_ptr(), bits(p), id(p.grad) if p.grad is not None else None, bits(p.grad), p.requires_grad)
        for name, p in net.named_parameters(remove_duplicate=False)
    }
    buffers = {name: (id(b), b.data_ptr(), bits(b)) for name, b in net.named_buffers(remove_duplicate=False)}
    modules = {}
    for name, module in net.named_modules(remove_duplicate=False):
        attributes = {key: id(value) for key, value in module.__dict__.items() if key not in ("training", "_stack")}
        hooks = {key: [id(value) for value in getattr(module, key).values()] for key in HOOKS}
        inner = {
            key: {k: id(v) for k, v in module.__dict__[key].items()} for key in ("_parameters", "_buffers", "_modules")
        }
        tensor_hooks = [len(p._backward_hooks or ()) for p in module._parameters.values() if p is not None]
        modules[name] = (module.training, attributes, hooks, inner, tensor_hooks, type(module))
    return parameters, buffers, modules


def generators():
    state = np.random.get_state()
    return random.getstate(), (state[0], state[1].tobytes(), *state[2:]), torch.get_rng_state().numpy().tobytes()


def switches():
    """Global switches of torch."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_autocast_enabled("cpu"),
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch._C._len_torch_function_stack(),
        torch._C._len_torch_dispatch_stack(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.mkldnn.enabled,
        len(torch.nn.modules.module._global_forward_hooks),
        len(torch.nn.modules.module._global_forward_pre_hooks),
    )


NAMED = {"features": ("conv", "norm")}  # the network has no blocks that AZ-NAS could find
OPTIONS = {
    "reg_swap": RegSwap(mu=1.0, sigma=10.0),
    "xi_gsnr": XiGSNR(batches=3),
    "te_nas_kappa": TENASKappa(samples=4),
    "te_nas_regions": TENASRegions(samples=9),
    "az_expressivity": AZExpressivity(**NAMED),
    "az_progressivity": AZProgressivity(**NAMED),
    "az_trainability": AZTrainability(**NAMED),
}


def proxies_of(name):
    """A proxy with the options it cannot do without."""
    return OPTIONS.get(name, name)


EXTRA = {
    "lswag-batch": LSWAG(granularity="batch", batches=3),
    "lswag-interval": LSWAG(interval=(7, 9), biases=True),
    "lswag-feeding": LSWAG(pairing="feeding"),
    "zico-batch": ZiCo(granularity="batch"),
    "synflow-kept": SynFlow(norms="kept"),
    "zen-bare": Zen(bare=True, init=None, repeats=2),
    "nas_graph-kept": NASGraph(init=None, norms=False),
    "zen-batch": Zen(scale="batch"),
    "t_cet-synflow": TCET(saliency="synflow"),
    "te_nas_kappa-drawn": TENASKappa(samples=4, init="kaiming"),
    "te_nas_regions-batch": TENASRegions(inputs="batch", init="kaiming"),
    "az_trainability-drawn": AZTrainability(**NAMED, init="kaiming"),
    "xi_gsnr-accumulated": XiGSNR(batches=2, accumulate=True),
}
CASES = [*list_proxies(), *EXTRA]
# these need neither a backward pass nor a loss of the network, so that they may well succeed where it fails
NO_PASS = {"params", "l2_norm", "flops", "az_complexity", "depth", "log_size"}
# these have passes of their own that do not go as far as the loss, or not as far back
FEATURES = {
    case for case in CASES if case.startswith(("zen", "te_nas_regions", "az_", "nas_graph")) and case != "az_complexity"
}
NO_LOSS = NO_PASS | FEATURES
NO_BACKWARD = NO_LOSS | {"swap", "reg_swap", "nwot"}
NO_TARGETS = NO_LOSS | {"jacov"} | {case for case in CASES if case.startswith(("synflow", "tf_tas", "te_nas"))}


def own_passes(case):
    """Whether a proxy has nothing but passes of its own, whose failure is a reason and no exception."""
    found = EXTRA.get(case) or proxies_of(case)
    return isinstance(proxy_class(found)() if isinstance(found, str) else found, OwnPass)


def assert_unchanged(net, before, action):
    random_before, switches_before = generators(), switches()
    action()
    assert generators() == random_before
    assert switches() == switches_before
    parameters, buffers, modules = picture(net)
    for now, then in ((parameters, before[0]), (buffers, before[1]), (modules, before[2])):
        assert now.keys() == then.keys()
        for name in now:
            assert now[name] == then[name], name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_success_changes_nothing(case, mode):
    net = mixed(Net())
    batch = make_batch()
    inputs = batch.inputs.clone()
    proxy = EXTRA.get(case) or proxies_of(case)
    assert_unchanged(net, picture(net), lambda: score(net, batch, proxy, mode=mode, seed=5))
    assert torch.equal(batch.inputs, inputs) and not batch.inputs.requires_grad and batch.inputs.grad is None


FAILURES = {
    "forward": ArithmeticError,
    "interrupt": KeyboardInterrupt,
    "backward": ArithmeticError,
    "nan": InputError,
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("case", CASES)
def test_failure_changes_nothing(case, failure):
    net = mixed(Net())
    net.fails = failure
    proxy = EXTRA.get(case) or proxies_of(case)
    raised = []

    def attempt():
        try:
            score(net, make_batch(), proxy, seed=5)
        except BaseException as error:
            raised.append(error)

    assert_unchanged(net, picture(net), attempt)
    spared = {"backward": NO_BACKWARD | {"lswag-interval"}, "nan": NO_LOSS}  # the interval does not go back that far
    if case in ("flops", "az_complexity") and failure == "interrupt":
        assert isinstance(raised[0], KeyboardInterrupt), "a count may fail, an interruption must get through"
    elif case not in spared.get(failure, NO_PASS):
        caught = own_passes(case) and failure != "interrupt"
        assert isinstance(raised[0], InputError if caught else FAILURES[failure]), raised


TARGETS = {
    "class-too-large": lambda n: torch.full((n,), 7),
    "negative": lambda n: torch.full((n,), -1),
    "wrong-type": lambda n: torch.rand(n),
    "none": lambda n: None,
    "wrong-shape": lambda n: torch.zeros(n, 4, dtype=torch.long),
}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_bad_targets_change_nothing(case, kind):
    net = mixed(Net())
    batch = Batch(make_batch().inputs, TARGETS[kind](6))
    proxy = EXTRA.get(case) or proxies_of(case)
    raised = []

    def attempt():
        try:
            score(net, batch, proxy)
        except Exception as error:
            raised.append(error)

    assert_unchanged(net, picture(net), attempt)
    if case not in NO_TARGETS:
        assert isinstance(raised[0], InputError), raised


def test_loss_that_raises_and_loss_that_draws():
    def raising(outputs, targets):
        raise LookupError("no loss today")

    def drawing(outputs, targets):
        noise = random.random() + np.random.rand() + torch.rand(())
        return F.cross_entropy(outputs, targets) * (1 + noise)

    for loss in (raising, drawing):
        net = mixed(Net())

        def attempt(net=net, loss=loss):
            with contextlib.suppress(LookupError):
                score(net, make_batch(), "lswag", loss=loss)

        assert_unchanged(net, picture(net), attempt)


def test_hook_of_the_user_that_raises():
    net = mixed(Net())

    def refuse(module, args, output):
        raise LookupError("not this layer")

    net.head.register_forward_hook(refuse)

    def attempt():
        with pytest.raises(LookupError):
            score(net, make_batch())

    assert_unchanged(net, picture(net), attempt)


def test_under_no_grad_and_inference_of_the_caller():
    net = mixed(Net())
    before = picture(net)
    with torch.no_grad():
        assert_unchanged(net, before, lambda: score(net, make_batch(), "lswag"))
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("proxy", CASES)
def test_training_afterwards_is_the_same_as_without(proxy):
    def train(net, interlude):
        torch.manual_seed(11)
        random.seed(11)
        np.random.seed(11)
        net.train()
        net.conv.weight.requires_grad_(True)
        optimiser = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        x, y = torch.randn(8, 3, 6, 6), torch.arange(8) % 3
        losses = []
        for step in range(4):
            if step in (0, 2):
                interlude(net)
            optimiser.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        return losses, {name: bits(value) for name, value in net.state_dict().items()}, generators()

    start = Net()
    option = EXTRA.get(proxy) or proxies_of(proxy)
    plain = train(copy.deepcopy(start), lambda net: None)
    scored = train(copy.deepcopy(start), lambda net: score(net, make_batch(), option))
    assert plain == scored


def test_all_proxies_at_once_change_nothing():
    net = mixed(Net())
    wanted = [proxies_of(name) for name in list_proxies()]
    assert_unchanged(net, picture(net), lambda: score(net, make_batch(), wanted, seed=0))


def test_no_graph_is_left_on_the_model():
    net = mixed(Net())
    score(net, make_batch())
    copy.deepcopy(net.conv)
    for tensor in [*net.parameters(), *net.buffers()]:
        assert tensor.grad_fn is None


# ---------------------------------------------------------------- the session by itself


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("mode", MODES)
def test_scripted_modules_get_their_flags_back(mode):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    net[1].eval()
    scripted = torch.jit.script(net)
    before = [module.training for module in scripted.modules()]
    assert len(set(before)) == 2
    score(scripted, make_batch(), "zico", mode=mode)
    assert [module.training for module in scripted.modules()] == before


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_loaded_scripted_module_is_put_back(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    torch.jit.save(torch.jit.script(net), tmp_path / "net.pt")
    loaded = torch.jit.load(tmp_path / "net.pt")
    first, second, *_ = loaded.parameters()
    assert not isinstance(first, nn.Parameter)  # though it is one
    first.requires_grad_(False)
    second.grad = torch.ones_like(second)
    with ProbeSession(loaded):
        assert first.requires_grad
        with torch.no_grad():
            first.add_(1)
        second.grad = None
    assert not first.requires_grad and torch.equal(second.grad, torch.ones_like(second))
    assert torch.equal(first, net[0].weight)


def test_buffers_without_storage():
    net = Net()
    net.register_buffer("adjacency", torch.eye(3).to_sparse())
    net.register_buffer("blocked", torch.eye(3).to_mkldnn())
    score(net, make_batch(), "lswag")
    with ProbeSession(net):
        net.adjacency.mul_(2)
    assert torch.equal(net.adjacency.to_dense(), torch.eye(3))


def test_zeros_keep_their_sign_in_any_order_of_dimensions():
    net = nn.Conv2d(2, 2, 1).to(memory_format=torch.channels_last)
    with torch.no_grad():
        net.weight.zero_()
    with ProbeSession(net), torch.no_grad():
        net.weight.mul_(-1)
    assert not bool(torch.signbit(net.weight).any())


def test_session_again(monkeypatch):
    net = mixed(Net())
    before, random_states, state = picture(net), generators(), switches()
    session = ProbeSession(net, "eval", seed=3)
    drawn = []
    for number in range(3):
        opened = session.again() if number else session
        with contextlib.suppress(ZeroDivisionError), opened, torch.no_grad():
            assert not net.training and net.conv.weight.requires_grad
            drawn.append(torch.rand(2))
            opened.set_mode("train")
            net.note = "left behind"
            net.norm.running_mean.fill_(7)
            net.conv.weight.zero_()
            net.head.weight.grad = None
            raise ZeroDivisionError
        assert picture(net) == before and generators() == random_states and switches() == state
        monkeypatch.setattr("lswag_hooks.hooks.session._Values", None)  # no further copies
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[1], drawn[2])


def test_session_opened_anew_does_not_undo_what_came_between():
    net = nn.Linear(2, 2)
    session = ProbeSession(net)
    with session:
        pass
    with torch.no_grad():
        net.weight.fill_(3)
    with session:
        pass
    assert bool((net.weight == 3).all())


def test_session_again_of_one_that_was_never_open():
    net = nn.Linear(2, 2)
    before = net.weight.detach().clone()
    with ProbeSession(net).again(), torch.no_grad():
        net.weight.zero_()
    assert torch.equal(net.weight, before)


def test_session_restores_what_is_done_inside():
    net = mixed(Net())
    added = nn.Parameter(torch.zeros(2))

    def meddle():
        with ProbeSession(net, seed=1):
            net.train()
            net.head.bias.grad = torch.ones(3)
            net.calls = torch.tensor(99)
            net.norm.running_mean.fill_(7)
            net.note = "left behind"
            net.fails = "forward"
            del net.history
            random.random(), np.random.rand(), torch.rand(1)
            assert all(p.requires_grad for p in net.parameters())
        assert added.shape == (2,)

    assert_unchanged(net, picture(net), meddle)


@pytest.mark.parametrize("mode", MODES)
def test_modes(mode):
    net = mixed(Net())
    with ProbeSession(net, mode):
        flags = {name: module.training for name, module in net.named_modules()}
        for name, flag in flags.items():
            assert flag == (mode == "train" or (mode == "score" and name == "norm")), name


class Renormalised(nn.Module):
    """Look-ups with max_norm shorten the rows of the table in place, without autograd noticing."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(5, 4, max_norm=0.5)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.emb(x).relu().mean(1))


class Constrained(nn.Module):
    """A max-norm constraint applied before each use of a weight, as EEGNet has it."""

    def __init__(self, in_place):
        super().__init__()
        self.fc, self.in_place = nn.Linear(4, 3), in_place

    def forward(self, x):
        if self.in_place:
            with torch.no_grad():
                self.fc.weight.clamp_(-0.1, 0.1)
        else:
            self.fc.weight.data = torch.renorm(self.fc.weight.data, p=2, dim=0, maxnorm=0.1)
        return self.fc(x.relu())


class Counter(nn.Module):
    """A buffer written through ``.data``, whose version does not tell."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen.data.add_(1)
        return self.fc(x.relu())


@pytest.mark.parametrize(
    "net",
    [
        pytest.param(Renormalised(), id="embedding-max-norm"),
        pytest.param(Constrained(True), id="weight-clamped-in-place"),
        pytest.param(Constrained(False), id="weight-data-replaced"),
        pytest.param(Counter(), id="buffer-data"),
    ],
)
def test_model_that_writes_on_itself_in_forward(net):
    x = torch.randint(0, 5, (6, 3)) if isinstance(net, Renormalised) else torch.randn(6, 4)
    batch = Batch(x, torch.arange(6) % 3)
    assert_unchanged(net, picture(net), lambda: score(net, batch))


def test_list_and_dict_attributes_of_a_model_are_restored():
    class Diary(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)
            self.lines, self.counts = ["first"], {"calls": 0}
            self.later, self.names, self.none, self.nobody = [], {"a"}, {}, set()
            self.turned = {"first": 1, "second": 2}

        def forward(self, x):
            self.lines.append("another")
            self.counts["calls"] += 1
            self.later.append(1)
            self.names.add("b")
            self.none["a"] = 1
            self.nobody.add("c")
            self.turned["first"] = self.turned.pop("first")  # the same items, in another order
            return self.fc(x.relu())

    net = Diary()
    held = net.later, net.names, net.none, net.nobody
    score(net, Batch(torch.randn(6, 4), torch.arange(6) % 3))
    assert net.lines == ["first"] and net.counts == {"calls": 0}
    assert held == ([], {"a"}, {}, set())
    assert all(now is then for now, then in zip((net.later, net.names, net.none, net.nobody), held, strict=True))
    assert list(net.turned) == ["first", "second"]


def test_attributes_keep_their_order_and_their_values():
    class Swaps(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)
            self.first, self.second = object(), object()

        def forward(self, x):
            self.first, self.second = self.second, self.first  # as many attributes as before
            return self.fc(x.relu())

    net = Swaps()
    kept = dict(net.__dict__)
    score(net, Batch(torch.randn(6, 4), torch.arange(6) % 3))
    assert list(net.__dict__) == list(kept) and all(net.__dict__[name] is value for name, value in kept.items())


def test_submodule_added_in_forward_is_removed():
    class Lazybones(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            if not hasattr(self, "extra"):
                self.extra = nn.Linear(4, 4)
                self.register_buffer("stamp", torch.ones(1))
            return self.fc(self.extra(x).relu())

    net = Lazybones()
    before = picture(net)
    with contextlib.suppress(Exception):
        score(net, Batch(torch.randn(6, 4), torch.arange(6) % 3))
    for now, then in zip(picture(net), before, strict=True):
        assert now.keys() == then.keys()


def test_session_can_be_entered_again_after_a_failure():
    net = mixed(Net())
    before = picture(net)
    session = ProbeSession(net)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), session:
            raise ZeroDivisionError
    assert picture(net)[0] == before[0]


def test_sessions_nest():
    net = mixed(Net())

    x = torch.randn(2, 3, 6, 6)

    def nested():
        with ProbeSession(net), ProbeSession(net, "train"):
            net(x)

    assert_unchanged(net, picture(net), nested)
