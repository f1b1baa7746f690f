"""Capture on small networks, each with one difficulty, against a loop over single samples in float64."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from lswag_hooks import Batch, UnsupportedError, register_activation, score
from lswag_hooks.hooks import activations
from lswag_hooks.hooks.forward import Watcher
from lswag_hooks.hooks.rules import blocks
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.hooks.weights import GradientCapture

B, CLASSES = 5, 3


def take(inputs, index):
    """Some samples of the inputs; tensors of another length are shared by all samples."""
    if isinstance(inputs, dict):
        return {key: take(value, index) for key, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(take(value, index) for value in inputs)
    return inputs[index] if len(inputs) == B else inputs


def call(model, inputs):
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def logits_of(output):
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, dict):
        return output["logits"]
    return output.logits if hasattr(output, "logits") else output[0]


def loss_of(output, targets):
    return F.cross_entropy(logits_of(output).flatten(1), targets)


def targets_of(samples=B):
    return torch.arange(samples) % CLASSES


def whole(source, tile_bytes=1 << 20):
    """All per-sample gradients of a source in the weight's own shape, put together from its tiles."""
    matrix = torch.full((source.samples, source.rows, source.columns), math.nan, dtype=torch.float64)
    for rows, groups in blocks(source, tile_bytes):
        for samples in groups:
            matrix[samples, rows] = source.block(samples, rows).double()
    return source.restore(matrix)


def capture(model, inputs, targets=None, tile_bytes=1 << 20, autocast=False, mode="eval"):
    """Per-sample gradients of every covered weight, activations' codes, and what the forward pass showed."""
    targets = targets_of() if targets is None else targets
    seen = SimpleNamespace(gradients={}, bias={}, unreached=[])

    def objective(of):
        def compute(marked):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                output = call(model, marked)
            return loss_of(output, of)

        return compute

    def experiment():
        three = torch.tensor([0, 0, 1])
        return Watcher(model, 3).outputs(take(inputs, three), objective(targets[three]))

    def coded(position, activation, outputs):
        code = outputs.clone() if outputs.dtype == torch.bool else outputs > 0
        placed[position] = (activation, code)

    placed = {}
    with ProbeSession(model, mode):
        watcher = Watcher(model, B)
        seen.forward = watcher.run(inputs, objective(targets), coded, experiment)

        def consume(layer, found):
            if found.source is None:
                seen.unreached.append(layer.name)
                return
            seen.gradients[layer.parameter] = whole(found.source, tile_bytes)
            if found.bias is not None and found.outputs is not None:
                seen.bias[layer.parameter] = found.outputs().double()

        layers = seen.forward.inventory.layers
        if layers:
            GradientCapture(seen.forward.graph, watcher.parameters, B).run(seen.forward.loss, layers, consume, float(B))
    seen.codes = [placed[position] for position in sorted(placed)]
    seen.uncovered = seen.forward.inventory.uncovered
    return seen


def loop(model, inputs, targets=None, autocast=False):
    """Gradients of single samples, one forward and backward pass each."""
    targets = targets_of() if targets is None else targets
    flags = [(module, module.training) for module in model.modules()]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    for module, _ in flags:
        module.training = False
    for p in frozen:
        p.requires_grad_(True)
    names, parameters = zip(*model.named_parameters(), strict=True)
    rows = {name: [] for name in names}
    for i in range(B):
        one = torch.tensor([i])
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = call(model, take(inputs, one))
        found = torch.autograd.grad(loss_of(output, targets[one]), parameters, allow_unused=True)
        for name, p, g in zip(names, parameters, found, strict=True):
            rows[name].append(torch.zeros_like(p) if g is None else g)
    for p in frozen:
        p.requires_grad_(False)
    for module, flag in flags:
        module.training = flag
    return {name: torch.stack(value).double() for name, value in rows.items()}


def same(found, wanted, tolerance=1e-9, rounding=0.0):
    assert found.shape == wanted.shape
    scale = float(wanted.abs().max())
    assert scale > 0, "the test is vacuous: the gradient is zero"
    assert float((found - wanted).abs().max()) <= tolerance * scale + rounding


def matrices(model):
    """Every parameter of two dimensions or more, which in these networks are the weights of layers."""
    return {name for name, p in model.named_parameters() if sum(n > 1 for n in p.shape) >= 2}


def check(model, inputs, layers=None, tile_bytes=1 << 20, tolerance=1e-9):
    """All layers covered, every per-sample gradient and bias gradient as in the loop."""
    wanted = loop(model, inputs)
    seen = capture(model, inputs, tile_bytes=tile_bytes)
    assert set(seen.gradients) == (matrices(model) if layers is None else set(layers)), seen.uncovered
    for name, gradient in seen.gradients.items():
        same(gradient, wanted[name], tolerance)
    # the gradient of a key's bias is zero but for the rounding of sums of larger ones
    rounding = torch.finfo(torch.float64).eps * max(float(one.abs().max()) for one in wanted.values())
    for name, gradient in seen.bias.items():
        same(gradient, wanted[name.removesuffix("weight") + "bias"], tolerance, rounding)
    return seen


class Net(nn.Module):
    """Parts by name and a forward pass given as a function of (parts, input)."""

    def __init__(self, forward, **members):
        super().__init__()
        for name, member in members.items():
            setattr(self, name, member)
        self._forward = forward

    def forward(self, *args, **kwargs):
        return self._forward(self, *args, **kwargs)


def param(*shape):
    return nn.Parameter(0.4 * torch.randn(*shape))


def pooled(x):
    """Logits by a fixed projection, so that a case is about the layers in it alone."""
    flat = x.flatten(1)
    pick = torch.linspace(-1, 1, flat.shape[1] * CLASSES, dtype=flat.dtype).view(flat.shape[1], CLASSES).cos()
    return flat @ pick


def image(channels=3, size=8, dims=2):
    return torch.randn(B, channels, *[size] * dims, dtype=torch.float64)


def tokens(length=4, width=6):
    return torch.randn(B, length, width, dtype=torch.float64)


# ---------------------------------------------------------------- how modules and functions are called


def test_plain_network_and_biases():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, bias=False), nn.Flatten(), nn.Linear(96, 3))
    seen = check(net.double(), image())
    assert set(seen.bias) == {"0.weight", "4.weight"}
    assert [layer.name for layer in seen.forward.inventory.layers] == ["0", "2", "4"]


def test_layers_come_in_call_order_not_in_order_of_registration():
    net = Net(lambda m, x: m.a(m.b(x).relu()), a=nn.Linear(5, 3), b=nn.Linear(6, 5)).double()
    seen = check(net, torch.randn(B, 6, dtype=torch.float64))
    assert [layer.name for layer in seen.forward.inventory.layers] == ["b", "a"]


def test_reused_linear_is_summed_over_calls():
    net = Net(lambda m, x: m.head(m.fc(torch.tanh(m.fc(F.relu(m.fc(x)))))), fc=nn.Linear(6, 6), head=nn.Linear(6, 3))
    seen = check(net.double(), torch.randn(B, 6, dtype=torch.float64))
    assert [len(layer.calls) for layer in seen.forward.inventory.layers] == [3, 1]


def test_reused_convolution_on_several_scales():
    def forward(m, x):
        return m.head((m.conv(x).mean((2, 3)) + m.conv(F.avg_pool2d(x, 2)).sigmoid().mean((2, 3))).tanh())

    check(Net(forward, conv=nn.Conv2d(3, 4, 3, padding=1), head=nn.Linear(4, 3)).double(), image())


def test_same_module_under_two_names():
    shared = nn.Linear(6, 6)
    net = Net(lambda m, x: m.head(m.b(m.a(x).relu())), a=shared, b=shared, head=nn.Linear(6, 3)).double()
    check(net, torch.randn(B, 6, dtype=torch.float64))


@pytest.mark.parametrize("activation", [nn.ReLU(inplace=True), F.relu, F.relu_, lambda x: x.relu_(), torch.relu_])
@pytest.mark.parametrize("shape", [(6,), (4, 6)])
def test_relu_in_place_or_functional_after_a_linear_layer(activation, shape):
    # the output of a linear layer on three dimensions is a view: a tensor hook on it would never fire
    net = Net(lambda m, x: pooled(m.b(activation(m.a(x)))), a=nn.Linear(6, 8), b=nn.Linear(8, 5)).double()
    seen = check(net, torch.randn(B, *shape, dtype=torch.float64))
    assert len(seen.codes) == 1


def test_in_place_relu_on_a_slice():
    def forward(m, x):
        y = m.a(x)
        y[:, :4].relu_()
        return m.b(y)

    net = Net(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 3)).double()
    seen = check(net, torch.randn(B, 6, dtype=torch.float64))
    assert len(seen.codes) == 1 and seen.codes[0][1].shape == (B, 4)


def test_functional_calls_with_bare_weights():
    def forward(m, x):
        x = F.conv2d(x, m.kernel, padding=1).relu()
        return F.linear(F.linear(x.mean((2, 3)), m.hidden, m.shift).relu(), m.out)

    net = Net(forward, kernel=param(4, 3, 3, 3), hidden=param(6, 4), shift=param(6), out=param(3, 6)).double()
    check(net, image())


@pytest.mark.parametrize(
    "product",
    [
        pytest.param(lambda m, x: x @ m.w, id="matmul"),
        pytest.param(lambda m, x: torch.einsum("bti,io->bto", x, m.w), id="einsum"),
        pytest.param(lambda m, x: torch.einsum("bti,io->bot", x, m.w), id="einsum-transposed"),
        pytest.param(lambda m, x: torch.tensordot(x, m.w, dims=1), id="tensordot"),
        pytest.param(lambda m, x: m.w.t() @ x.transpose(1, 2), id="weight-on-the-left"),
        pytest.param(lambda m, x: F.linear(x, m.w.t()), id="linear-of-a-transpose"),
        pytest.param(lambda m, x: torch.addmm(x.new_ones(5), x.flatten(0, 1), m.w).view(B_of(x), -1), id="addmm"),
        pytest.param(lambda m, x: x.flatten(0, 1).mm(m.w).view(B_of(x), -1), id="mm"),
        pytest.param(lambda m, x: torch.stack([one @ m.w for one in x]), id="one-product-a-sample"),
    ],
)
def test_matrix_products_with_a_parameter_are_right_or_reported(product):
    net = Net(lambda m, x: pooled(product(m, x)), w=param(6, 5)).double()
    x = tokens()
    wanted, seen = loop(net, x), capture(net, x)
    if "w" in seen.gradients:
        same(seen.gradients["w"], wanted["w"])
    else:
        assert seen.uncovered.get("w"), "skipped in silence"


def B_of(x):
    return x.shape[0]


@pytest.mark.parametrize(
    "product",
    [
        pytest.param(lambda m, x: x @ m.w, id="matmul"),
        pytest.param(lambda m, x: F.linear(x, m.w.t()), id="linear-of-a-transpose"),
        pytest.param(lambda m, x: torch.einsum("bti,io->bto", x, m.w), id="einsum"),
    ],
)
def test_ordinary_matrix_products_are_covered(product):
    check(Net(lambda m, x: pooled(product(m, x)), w=param(6, 5)).double(), tokens())


def test_split_and_concatenated_projections():
    def forward(m, x):
        q, k = F.linear(x, m.qk[:5]), F.linear(x, m.qk[5:])
        return pooled(q * k + F.linear(x, torch.cat([m.left, m.right])))

    check(Net(forward, qk=param(10, 6), left=param(2, 6), right=param(3, 6)).double(), tokens())


# ---------------------------------------------------------------- layouts: which rows are whose


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("length", [4, B])  # as many positions as samples: the shape says nothing
def test_self_attention(batch_first, length):
    def forward(m, x):
        x = x if batch_first else x.transpose(0, 1)
        y = m.attn(x, x, x, need_weights=False)[0]
        return pooled(y if batch_first else y.transpose(0, 1))

    net = Net(forward, attn=nn.MultiheadAttention(6, 2, batch_first=batch_first)).double()
    check(net, tokens(length), ["attn.in_proj_weight", "attn.out_proj.weight"])


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_cross_attention_with_other_widths(batch_first, need_weights):
    def forward(m, x, memory):
        if not batch_first:
            x, memory = x.transpose(0, 1), memory.transpose(0, 1)
        y = m.attn(x, memory, memory[..., :5], need_weights=need_weights)[0]
        return pooled(y if batch_first else y.transpose(0, 1))

    net = Net(forward, attn=nn.MultiheadAttention(6, 2, kdim=7, vdim=5, batch_first=batch_first)).double()
    inputs = (tokens(4), tokens(3, 7))
    check(
        net, inputs, [f"attn.{name}" for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight")]
    )


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_over_a_memory_of_the_same_width(batch_first):
    def forward(m, x, memory):
        if not batch_first:
            x, memory = x.transpose(0, 1), memory.transpose(0, 1)
        y = m.attn(x, memory, memory)[0]
        return pooled(y if batch_first else y.transpose(0, 1))

    net = Net(forward, attn=nn.MultiheadAttention(6, 2, batch_first=batch_first)).double()
    check(net, (tokens(4), tokens(3)), ["attn.in_proj_weight", "attn.out_proj.weight"])


@pytest.mark.parametrize("length", [4, B])
def test_sequence_first_encoder(length):
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.1, batch_first=False)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    net = Net(lambda m, x: m.head(m.encoder(x.transpose(0, 1)).mean(0)), encoder=encoder, head=nn.Linear(6, 3)).double()
    seen = check(net, tokens(length))
    assert len(seen.codes) == 2
    assert all(code.shape == (B, length * 8) for _, code in seen.codes)


def codes_alone(net, x, i):
    """Codes of one sample, from a plain forward pass with hooks of the test's own."""
    outputs = []
    net.eval()
    with torch.no_grad():
        for layer in net.encoder.layers:
            handle = layer.linear1.register_forward_hook(lambda m, args, out: outputs.append(out.relu() > 0))
            try:
                net(x[i : i + 1])
            finally:
                handle.remove()
    return [out.transpose(0, 1).reshape(1, -1) for out in outputs]


@pytest.mark.parametrize("length", [4, B])
def test_codes_of_a_sequence_first_encoder_belong_to_their_samples(length):
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=False)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    net = Net(lambda m, x: m.head(m.encoder(x.transpose(0, 1)).mean(0)), encoder=encoder, head=nn.Linear(6, 3)).double()
    x = tokens(length)
    seen = capture(net, x)
    for i in range(B):
        for (_, batched), alone in zip(seen.codes, codes_alone(net, x, i), strict=True):
            assert torch.equal(batched[i], alone[0])


@pytest.mark.parametrize("length", [4, B])
def test_linear_on_sequence_first_tokens(length):
    net = Net(lambda m, x: pooled(m.fc(x.transpose(0, 1)).relu().transpose(0, 1)), fc=nn.Linear(6, 5)).double()
    check(net, tokens(length))


@pytest.mark.parametrize("size", [8, 16])
def test_windows_are_folded_back(size):
    def forward(m, x):  # (B, C, H, W) in windows of 4 x 4, contiguous blocks of rows a sample
        b, c, h, w = x.shape
        x = x.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        return pooled(m.fc(x).relu().view(b, -1))

    check(Net(forward, fc=nn.Linear(3, 4)).double(), image(size=size))


def test_two_views_of_a_batch_put_one_after_the_other():
    def forward(m, x):  # rows (view, sample): sample = row % B
        both = m.fc(torch.cat([x, x.flip(1) * 2])).relu()
        return pooled(torch.cat(both.chunk(2), 1))

    net = Net(forward, fc=nn.Linear(6, 5)).double()
    x = torch.randn(B, 6, dtype=torch.float64)
    seen = check(net, x)
    with torch.no_grad():
        alone = torch.stack([(net.fc(torch.stack([one, one.flip(0) * 2])) > 0).flatten() for one in x])
    assert torch.equal(seen.codes[0][1], alone)


def test_samples_one_by_one_are_right_or_reported():
    net = Net(lambda m, x: pooled(torch.stack([m.conv(one).relu() for one in x])), conv=nn.Conv2d(3, 4, 3)).double()
    wanted, seen = loop(net, x := image()), capture(net, x)
    if "conv.weight" in seen.gradients:
        same(seen.gradients["conv.weight"], wanted["conv.weight"])
    else:
        assert seen.uncovered["conv.weight"]


def test_convolution_over_folded_samples():
    def forward(m, x):  # video: frames folded into the batch
        b, t = x.shape[:2]
        return pooled(m.conv(x.flatten(0, 1)).relu().view(b, t, -1))

    net = Net(forward, conv=nn.Conv2d(3, 4, 3)).double()
    check(net, torch.randn(B, 4, 3, 6, 6, dtype=torch.float64))


def test_rows_in_an_order_of_their_own_are_reported_not_guessed():
    order = torch.tensor([3, 1, 4, 0, 2, 9, 7, 5, 8, 6])

    def forward(m, x):
        rows = x.flatten(0, 1)
        mix = order if len(rows) == 2 * B else torch.arange(len(rows)).flip(0)
        y = m.fc(rows[mix])
        return pooled(torch.empty_like(y).index_copy(0, mix, y).view(len(x), -1))

    net = Net(forward, fc=nn.Linear(6, 4)).double()
    seen = capture(net, tokens(2))
    assert "fc.weight" in seen.uncovered and not seen.gradients
    assert "sample" in seen.uncovered["fc.weight"]


class OwnProduct(torch.autograd.Function):
    """A product that autograd knows under no name of its own, as fused kernels are."""

    @staticmethod
    def forward(context, x, weight):
        context.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(context, gradient):
        x, weight = context.saved_tensors
        return gradient @ weight.t(), x.flatten(0, -2).t() @ gradient.flatten(0, -2)


def test_weights_of_a_custom_function_are_reported():
    net = Net(lambda m, x: pooled(m.fc(OwnProduct.apply(x, m.experts)).relu()), experts=param(6, 6), fc=nn.Linear(6, 4))
    seen = capture(net.double(), tokens())
    assert set(seen.gradients) == {"fc.weight"}
    assert seen.uncovered == {"experts": "enters OwnProductBackward, for which there is no rule"}


def test_weights_of_matrix_times_vector_are_reported():
    net = Net(lambda m, x: torch.stack([torch.mv(m.weights, one) for one in x]).relu(), weights=param(3, 6)).double()
    seen = capture(net, torch.randn(B, 6, dtype=torch.float64))
    assert seen.uncovered == {"weights": "enters MvBackward0, for which there is no rule"}


def complex_product(m, x):
    return pooled((torch.complex(x, x.flip(1)) @ torch.complex(m.real, m.imaginary)).abs())


def complex_weight(m, x):
    return pooled((m.conv(torch.complex(x, x.flip(2))).abs()).relu())


@pytest.mark.parametrize(
    ("net", "x"),
    [
        (Net(complex_product, real=param(6, 4), imaginary=param(6, 4)).double(), (6,)),
        (Net(complex_weight, conv=nn.Conv1d(3, 4, 3, dtype=torch.complex128)), (3, 7)),
    ],
)
def test_complex_numbers_are_reported(net, x):
    seen = capture(net, torch.randn(B, *x, dtype=torch.float64))
    assert set(seen.uncovered) == matrices(net) and not seen.gradients
    assert all("complex" in reason for reason in seen.uncovered.values())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_reported():
    def forward(m, x):
        rows = torch.nested.as_nested_tensor(list(x), layout=torch.jagged)
        return m.head(torch.stack([row.mean(0) for row in m.fc(rows).relu().unbind()]))

    seen = capture(Net(forward, fc=nn.Linear(6, 4), head=nn.Linear(4, CLASSES)).double(), tokens())
    assert "nested" in seen.uncovered["fc.weight"] and set(seen.gradients) == {"head.weight"}
    assert seen.forward.unplaced == {"": "a nested tensor"}


def test_model_made_for_one_size_of_batch_is_right_or_reported():
    def forward(m, x):
        windows = x.view(B, 2, 2, 6).flatten(0, 1)  # the experiment wants three samples
        return pooled(m.head(m.fc(windows).relu().view(B, -1)))

    net = Net(forward, fc=nn.Linear(6, 4), head=nn.Linear(16, 4)).double()
    seen = capture(net, tokens())
    assert set(seen.gradients) == {"head.weight"}
    assert "three samples" in seen.uncovered["fc.weight"]


BIASES = {
    "none": lambda m, x: F.linear(x, m.fc.weight),
    "twice": lambda m, x: F.linear(x, m.fc.weight, 2 * m.fc.bias),
    "elsewhere": lambda m, x: m.fc(x) * m.fc.bias,
    "scaled sum": lambda m, x: torch.add(x @ m.fc.weight.T, m.fc.bias, alpha=3),
}


@pytest.mark.parametrize("kind", BIASES)
def test_a_bias_that_is_not_simply_added_is_left_out(kind):
    net = Net(lambda m, x: pooled(BIASES[kind](m, x).relu()), fc=nn.Linear(6, 4)).double()
    seen = check(net, torch.randn(B, 6, dtype=torch.float64))
    assert set(seen.gradients) == {"fc.weight"} and not seen.bias


@pytest.mark.parametrize("add", [lambda x, bias: x + bias, lambda x, bias: bias + x])
def test_a_bias_that_is_added_afterwards_counts(add):
    net = Net(lambda m, x: pooled(add(x @ m.fc.weight.T, m.fc.bias).relu()), fc=nn.Linear(6, 4)).double()
    assert set(check(net, tokens()).bias) == {"fc.weight"}


JOINS = {
    "x + table": lambda x, table: x + table,
    "table + x": lambda x, table: table + x,
    "x += table": lambda x, table: (x * 1).add_(table),
    "x + 3 table": lambda x, table: torch.add(x, table, alpha=3),
    "x - table": lambda x, table: x - table,
    "table - x": lambda x, table: table - x,
    "table - 2 x": lambda x, table: torch.sub(table, x, alpha=2),
    "x * table": lambda x, table: x * table,
    "table * x": lambda x, table: table * x,
    "x / table": lambda x, table: x / table,
    "row of table": lambda x, table: x + table[:1],
    "expanded": lambda x, table: x + table.expand(len(x), -1, -1),
    "joined": lambda x, table: torch.cat([x, table.expand(len(x), -1, -1)], 1),
    "product": lambda x, table: x @ table.T,
    "to heads": lambda x, table: x[:, None] * table.T[:2, None, :1] + x[:, None],
}


@pytest.mark.parametrize("name", JOINS)
@pytest.mark.parametrize("length", [4, B])
def test_position_network_that_never_sees_a_sample_is_right_or_reported(name, length):
    def forward(m, x):
        place = torch.linspace(-1, 1, length, dtype=x.dtype)
        places = torch.stack([place, place.cos()], 1)
        return pooled(JOINS[name](m.fc(x), m.out(m.position(places).relu())).tanh())

    net = Net(forward, fc=nn.Linear(6, 6), position=nn.Linear(2, 7), out=nn.Linear(7, 6)).double()
    wanted, seen = loop(net, x := tokens(length)), capture(net, x)
    same(seen.gradients["fc.weight"], wanted["fc.weight"])
    for layer in ("position", "out"):
        weight = f"{layer}.weight"
        if weight in seen.gradients:
            same(seen.gradients[weight], wanted[weight])
            same(seen.bias[weight], wanted[f"{layer}.bias"])
        else:
            assert seen.uncovered.get(weight), "skipped in silence"


def test_position_network_of_one_coordinate_is_not_skipped():
    def forward(m, x):
        return pooled((m.fc(x) + m.out(m.position(torch.linspace(-1, 1, 4, dtype=x.dtype)[:, None]).relu())).tanh())

    net = Net(forward, fc=nn.Linear(6, 6), position=nn.Linear(1, 7), out=nn.Linear(7, 6)).double()
    wanted, seen = loop(net, x := tokens()), capture(net, x)
    if "position.weight" in seen.gradients:
        same(seen.gradients["position.weight"], wanted["position.weight"])
    else:
        assert seen.uncovered.get("position.weight"), "skipped in silence"


def test_expanded_queries_have_a_sample_axis():
    def forward(m, x):
        q = m.query_fc(m.start.expand(len(x), -1, -1))
        return pooled((q @ m.key_fc(x).transpose(1, 2)).softmax(-1) @ x)

    net = Net(forward, query_fc=nn.Linear(6, 6), key_fc=nn.Linear(6, 6), start=param(1, 2, 6)).double()
    wanted, seen = loop(net, x := tokens()), capture(net, x)
    same(seen.gradients["key_fc.weight"], wanted["key_fc.weight"])
    if "query_fc.weight" in seen.gradients:
        same(seen.gradients["query_fc.weight"], wanted["query_fc.weight"])
    else:
        assert seen.uncovered["query_fc.weight"]


# ---------------------------------------------------------------- weights that are computed


class Doubled(nn.Module):
    def forward(self, weight):
        return weight * 2 + weight.square()


@pytest.mark.parametrize(
    ("wrap", "names"),
    [
        pytest.param(parametrizations.weight_norm, ["parametrizations.weight.original1"], id="weight_norm"),
        pytest.param(nn.utils.weight_norm, ["weight_v"], id="weight_norm-of-old"),
        pytest.param(parametrizations.spectral_norm, ["parametrizations.weight.original"], id="spectral_norm"),
        pytest.param(nn.utils.spectral_norm, ["weight_orig"], id="spectral_norm-of-old"),
        pytest.param(parametrizations.orthogonal, ["parametrizations.weight.original"], id="orthogonal"),
        pytest.param(
            lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()) or layer,
            ["parametrizations.weight.original"],
            id="of-one's-own",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_parametrised_weights(wrap, names, kind):
    layer = (nn.Linear(6, 5) if kind == "linear" else nn.Conv2d(3, 5, 3)).double()
    x = tokens() if kind == "linear" else image(size=5)
    net = Net(lambda m, x: pooled(m.layer(x).relu()))
    net.layer = wrap(layer)
    seen = check(net, x, [f"layer.{name}" for name in names])
    assert seen.forward.inventory.layers[0].derived
    assert seen.forward.inventory.layers[0].name.startswith("layer")


@pytest.mark.parametrize("name", ["StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame"])
@pytest.mark.parametrize("groups", [1, 2])
def test_weight_standardised_convolution(name, groups):
    layers = pytest.importorskip("timm.layers")
    conv = getattr(layers, name)(4, 6, 3, stride=2, groups=groups)
    net = Net(lambda m, x: pooled(m.conv(m.stem(x)).relu()), stem=nn.Conv2d(3, 4, 1), conv=conv).double()
    check(net, image(size=7), ["stem.weight", "conv.weight"])


def test_dynamic_same_padding():
    conv = pytest.importorskip("timm.layers").Conv2dSame(3, 4, 3, stride=2)
    check(Net(lambda m, x: pooled(m.conv(x).relu()), conv=conv).double(), image(size=7))


class LowRank(nn.Module):
    def __init__(self, rows, columns):
        super().__init__()
        self.left, self.right = param(rows, 2), param(2, columns)

    def forward(self, weight):
        return weight + self.left @ self.right


def test_low_rank_parametrisation():
    net = Net(lambda m, x: pooled(m.layer(x).relu()), layer=nn.Linear(6, 5))
    parametrize.register_parametrization(net.layer, "weight", LowRank(5, 6))
    check(net.double(), tokens())


def test_weight_multiplied_by_a_constant_matrix():
    net = Net(lambda m, x: pooled(F.linear(x, m.mix @ m.w).relu()), w=param(5, 6))
    net.register_buffer("mix", torch.randn(5, 5))
    check(net.double(), tokens())


def test_weight_that_the_loss_also_sees_directly_is_right_or_reported():
    # cosine heads, penalties, indexed tables: a share of the gradient does not pass through any product
    net = Net(lambda m, x: F.linear(m.fc(x).relu(), m.w) + (m.w.square().sum(1)), fc=nn.Linear(6, 6), w=param(3, 6))
    wanted, seen = loop(net.double(), x := torch.randn(B, 6, dtype=torch.float64)), capture(net, x)
    same(seen.gradients["fc.weight"], wanted["fc.weight"])
    if "w" in seen.gradients:
        same(seen.gradients["w"], wanted["w"])
    else:
        assert seen.uncovered.get("w"), "skipped in silence"


def test_tied_table_that_is_indexed_is_right_or_reported():
    net = Net(lambda m, x: F.linear(m.w[x].mean(1).tanh(), m.w), w=param(7, 6)).double()
    wanted, seen = loop(net, x := torch.randint(0, 7, (B, 4))), capture(net, x)
    if "w" in seen.gradients:
        same(seen.gradients["w"], wanted["w"])
    else:
        assert seen.uncovered.get("w"), "skipped in silence"


def test_tied_embedding_and_head():
    net = Net(lambda m, x: m.head(m.fc(m.emb(x)).relu().mean(1)), emb=nn.Embedding(7, 6), fc=nn.Linear(6, 6))
    net.head = nn.Linear(6, 7, bias=False)
    net.head.weight = net.emb.weight
    net.double()
    x = torch.randint(0, 7, (B, 4))
    check(net, x, ["emb.weight", "fc.weight"])


@pytest.mark.parametrize("options", [{"padding_idx": 0}, {"scale_grad_by_freq": True}])
def test_tied_embedding_with_options_is_right_or_reported(options):
    # padding rows get no gradient from the look-up, frequent ones a smaller one
    net = Net(lambda m, x: m.head(m.emb(x).mean(1).tanh()), emb=nn.Embedding(7, 6, **options))
    net.head = nn.Linear(6, 7, bias=False)
    net.head.weight = net.emb.weight
    net.double()
    x = torch.tensor([[0, 1, 1, 2], [3, 0, 0, 0], [5, 5, 5, 6], [1, 2, 3, 4], [0, 0, 6, 6]])
    wanted, seen = loop(net, x), capture(net, x)
    if "emb.weight" in seen.gradients:
        same(seen.gradients["emb.weight"], wanted["emb.weight"])
    else:
        assert seen.uncovered["emb.weight"]


def test_tied_autoencoder():
    def forward(m, x):
        return pooled(F.linear(F.linear(x, m.w).relu(), m.w.t()))

    check(Net(forward, w=param(4, 6)).double(), tokens())


def test_tied_linear_and_convolution():
    def forward(m, x):
        return pooled(F.linear(F.conv1d(x, m.w[:, :, None]).relu().transpose(1, 2), m.w))

    check(Net(forward, w=param(6, 6)).double(), torch.randn(B, 6, 4, dtype=torch.float64))


def test_conv1d_of_transformers():
    module = pytest.importorskip("transformers.pytorch_utils")
    net = Net(lambda m, x: pooled(m.b(m.a(x).relu())), a=module.Conv1D(8, 6), b=module.Conv1D(5, 8)).double()
    check(net, tokens())


# ---------------------------------------------------------------- convolutions through a network


CONVOLUTIONS = {
    "grouped": (nn.Conv2d(4, 8, 3, groups=2), 2),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4, padding=1), 2),
    "dilated": (nn.Conv2d(4, 5, 3, dilation=2, padding=2), 2),
    "strided": (nn.Conv2d(4, 5, (3, 2), stride=(2, 3), padding=(1, 0)), 2),
    "same": (nn.Conv2d(4, 5, 4, padding="same"), 2),
    "same-1d-even": (nn.Conv1d(4, 5, 4, padding="same", dilation=3), 1),
    "circular": (nn.Conv2d(4, 5, 3, padding=1, padding_mode="circular"), 2),
    "reflect": (nn.Conv2d(4, 5, 3, padding=2, padding_mode="reflect"), 2),
    "1x1": (nn.Conv2d(4, 5, 1), 2),
    "1x1-strided": (nn.Conv2d(4, 5, 1, stride=3), 2),
    "1x1-padded": (nn.Conv2d(4, 5, 1, padding=1), 2),
    "wide": (nn.Conv2d(64, 5, 3, stride=2, padding=1), 2),
    "wide-dilated": (nn.Conv2d(64, 3, 3, dilation=2, padding=1), 2),
    "wide-1d": (nn.Conv1d(64, 3, 5, stride=3, padding=2), 1),
    "wide-3d": (nn.Conv3d(64, 2, 2, stride=2, padding=1), 3),
    "1d": (nn.Conv1d(4, 5, 3, stride=2), 1),
    "3d": (nn.Conv3d(4, 5, 3, stride=2, padding=1), 3),
    "3d-grouped": (nn.Conv3d(4, 6, (1, 2, 3), groups=2), 3),
    "transposed": (nn.ConvTranspose2d(4, 5, 3), 2),
    "transposed-all": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=2), 2),
    "transposed-1d": (nn.ConvTranspose1d(4, 5, 4, stride=3, output_padding=2), 1),
    "transposed-3d": (nn.ConvTranspose3d(4, 2, 2, stride=2), 3),
    "transposed-wide": (nn.ConvTranspose2d(64, 3, 3, stride=2, padding=1), 2),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_of_every_kind(name):
    conv, dims = CONVOLUTIONS[name]
    size = {1: 13, 2: 8, 3: 5}[dims]
    net = Net(lambda m, x: pooled(m.conv(x).relu()), conv=conv).double()
    for tile_bytes in (1 << 20, 256):
        check(
            net, image(conv.weight.shape[0] if conv.transposed else conv.in_channels, size, dims), tile_bytes=tile_bytes
        )


def test_unbatched_extra_dimension_of_a_convolution():
    # channels-last memory, as vision backbones run it
    net = Net(lambda m, x: pooled(m.b(m.a(x).relu())), a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 5, 3)).double()
    check(net.to(memory_format=torch.channels_last), image().to(memory_format=torch.channels_last))


# ---------------------------------------------------------------- real architectures in small


def test_timm_swin():
    module = pytest.importorskip("timm.models.swin_transformer")
    net = module.SwinTransformer(
        img_size=32, patch_size=4, embed_dim=12, depths=(2, 2), num_heads=(2, 2), window_size=4, num_classes=CLASSES
    ).double()
    wanted = {name for name in matrices(net) if "relative_position" not in name}
    seen = check(net, image(size=32), wanted, tolerance=1e-8)
    assert len(seen.codes) == 4 and not seen.forward.unplaced


def test_torchvision_swin():
    swin = pytest.importorskip("torchvision.models.swin_transformer").SwinTransformer
    net = swin([4, 4], 12, [2, 2], [2, 2], [4, 4], stochastic_depth_prob=0.1, num_classes=CLASSES).double()
    wanted = {name for name in matrices(net) if "relative_position" not in name}
    check(net, image(size=32), wanted, tolerance=1e-8)


def test_torchvision_maxvit():
    maxvit = pytest.importorskip("torchvision.models.maxvit").MaxVit
    net = maxvit((32, 32), 8, 4, [8, 8], [1, 1], 4, 0.1, num_classes=CLASSES).double()
    wanted = {name for name in matrices(net) if "relative_position" not in name}
    seen = check(net, image(size=32), wanted, tolerance=1e-8)
    assert not seen.forward.unplaced


def test_torchvision_swin_v2_and_its_position_network():
    v2 = pytest.importorskip("torchvision.models.swin_transformer")
    net = v2.SwinTransformer(
        [4, 4],
        12,
        [2],
        [2],
        [4, 4],
        num_classes=CLASSES,
        block=v2.SwinTransformerBlockV2,
        downsample_layer=v2.PatchMergingV2,
    ).double()
    x = image(size=32)
    for norm in net.modules():  # gains of zero would make the test vacuous
        if isinstance(norm, nn.LayerNorm):
            nn.init.normal_(norm.weight)
    wanted, seen = loop(net, x), capture(net, x)
    position = {name for name in matrices(net) if "cpb_mlp" in name}
    assert position and set(seen.gradients) | set(seen.uncovered) == matrices(net)
    assert set(seen.uncovered) <= position
    for name, gradient in seen.gradients.items():
        same(gradient, wanted[name], 1e-8)


def test_encoder_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=11,
        hidden_size=6,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
        num_labels=CLASSES,
        attn_implementation="eager",
    )
    net = transformers.BertForSequenceClassification(config).double()
    x = {"input_ids": torch.randint(0, 11, (B, 4)), "attention_mask": torch.ones(B, 4, dtype=torch.long)}
    wanted = {name for name in matrices(net) if "embeddings" not in name}
    check(net, x, wanted)


def test_tied_language_model():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=11,
        n_embd=6,
        n_layer=2,
        n_head=2,
        n_positions=8,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )
    net = transformers.GPT2LMHeadModel(config).double()
    x = {"input_ids": torch.randint(0, 11, (B, 4))}
    wanted = {name for name in matrices(net) if "wpe" not in name}
    seen = check(net, x, wanted)
    assert "transformer.wte.weight" in seen.gradients


# ---------------------------------------------------------------- inputs and outputs


@pytest.mark.parametrize("kind", ["tuple", "list", "dict", "model-output"])
def test_outputs_of_any_form(kind):
    def forward(m, x):
        logits, features = m.fc(x), m.aux(x)
        if kind == "model-output":
            outputs = pytest.importorskip("transformers.modeling_outputs")
            return outputs.SequenceClassifierOutput(logits=logits, hidden_states=(features,))
        return {"tuple": (logits, features), "list": [logits, features], "dict": {"logits": logits, "aux": features}}[
            kind
        ]

    net = Net(forward, fc=nn.Linear(6, 3), aux=nn.Linear(6, 4)).double()
    seen = check(net, torch.randn(B, 6, dtype=torch.float64), ["fc.weight"])
    assert seen.uncovered == {"aux.weight": "the loss does not reach it"}


def test_several_inputs_and_keywords():
    net = Net(lambda m, a, b: m.fa(a) * m.fb(b).relu(), fa=nn.Linear(6, 3), fb=nn.Linear(4, 3)).double()
    a, b = torch.randn(B, 6, dtype=torch.float64), torch.randn(B, 4, dtype=torch.float64)
    check(net, (a, b))
    check(net, {"b": b, "a": a})


def test_tokens_through_an_embedding():
    net = Net(lambda m, x: m.fc(m.conv(m.emb(x).transpose(1, 2)).relu().mean(2)))
    net.emb, net.conv, net.fc = nn.Embedding(9, 6), nn.Conv1d(6, 5, 2), nn.Linear(5, 3)
    check(net.double(), torch.randint(0, 9, (B, 4)), ["conv.weight", "fc.weight"])


@pytest.mark.parametrize("length", [4, B])
def test_tokens_with_as_many_positions_as_samples(length):
    net = Net(lambda m, x: m.fc(m.up(m.emb(x)).relu().mean(1)))
    net.emb, net.up, net.fc = nn.Embedding(9, 6), nn.Linear(6, 5), nn.Linear(5, 3)
    check(net.double(), torch.randint(0, 9, (B, length)), ["up.weight", "fc.weight"])


def test_input_changed_in_place():
    net = Net(lambda m, x: m.fc(x.mul_(2).relu_()), fc=nn.Linear(6, 3)).double()
    x = torch.randn(B, 6, dtype=torch.float64)
    kept = x.clone()
    seen = capture(net, x)
    assert torch.equal(x, kept)
    same(seen.gradients["fc.weight"], loop(net, x.clone())["fc.weight"])


# ---------------------------------------------------------------- parameters without gradients


def test_frozen_parameters_are_seen_and_stay_frozen():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).double()
    net[0].weight.requires_grad_(False)
    net[3].bias.requires_grad_(False)
    check(net, image())
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, False]
    assert all(p.grad is None for p in net.parameters())


def test_wholly_frozen_network():
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double().requires_grad_(False)
    check(net, torch.randn(B, 6, dtype=torch.float64))
    assert not any(p.requires_grad for p in net.parameters())


def test_layers_that_no_gradient_reaches_are_named():
    def forward(m, x):
        return m.fc(x + m.cut(x).detach()) + 0 * m.fc(x)

    net = Net(forward, fc=nn.Linear(6, 3), cut=nn.Linear(6, 6), unused=nn.Conv2d(3, 4, 3)).double()
    seen = check(net, torch.randn(B, 6, dtype=torch.float64), ["fc.weight"])
    assert seen.uncovered == {
        "cut.weight": "the loss does not reach it",
        "unused.weight": "the loss does not reach it",
    }


def test_layers_under_no_grad_are_named():
    def forward(m, x):
        with torch.no_grad():
            x = m.frozen(x).relu()
        return m.fc(x)

    net = Net(forward, frozen=nn.Linear(6, 6), fc=nn.Linear(6, 3)).double()
    seen = check(net, torch.randn(B, 6, dtype=torch.float64), ["fc.weight"])
    assert set(seen.uncovered) == {"frozen.weight"}
    assert len(seen.codes) == 1


def test_recurrent_layers_are_reported():
    net = Net(lambda m, x: m.fc(m.rnn(x)[0][:, -1]), rnn=nn.LSTM(6, 4, batch_first=True), fc=nn.Linear(4, 3)).double()
    wanted, seen = loop(net, x := tokens()), capture(net, x)
    same(seen.gradients["fc.weight"], wanted["fc.weight"])
    for name in ("rnn.weight_ih_l0", "rnn.weight_hh_l0"):
        assert (name in seen.gradients) or seen.uncovered.get(name), f"{name} was skipped in silence"
        if name in seen.gradients:
            same(seen.gradients[name], wanted[name])


def test_bilinear_layer_is_right_or_reported():
    net = Net(lambda m, x: m.bi(x, x.tanh()), bi=nn.Bilinear(6, 6, 3)).double()
    wanted, seen = loop(net, x := torch.randn(B, 6, dtype=torch.float64)), capture(net, x)
    if "bi.weight" in seen.gradients:
        same(seen.gradients["bi.weight"], wanted["bi.weight"])
    else:
        assert seen.uncovered["bi.weight"]


def test_fused_experts_are_right_or_reported():
    net = Net(lambda m, x: pooled(torch.einsum("bti,eio->beto", x, m.experts)), experts=param(2, 6, 5)).double()
    wanted, seen = loop(net, x := tokens()), capture(net, x)
    if "experts" in seen.gradients:
        same(seen.gradients["experts"], wanted["experts"])
    else:
        assert seen.uncovered.get("experts"), "skipped in silence"


# ---------------------------------------------------------------- compiled, autocast, checkpointed


def refuse(graph, inputs):
    raise AssertionError("the model was compiled while scoring")


@pytest.mark.parametrize(
    "compiled",
    [
        pytest.param(lambda net: torch.compile(net, backend="eager"), id="eager-backend"),
        pytest.param(torch.compile, id="default-backend"),
        pytest.param(lambda net: net.compile(backend=refuse) or net, id="in-place"),
    ],
)
def test_compiled_modules_run_eagerly(compiled):
    torch.compiler.reset()
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).double()
    x = image()
    wanted = loop(plain, x)
    seen = capture(compiled(plain), x)
    assert [layer.name for layer in seen.forward.inventory.layers] == ["0", "3"]
    for key, gradient in seen.gradients.items():
        same(gradient, wanted[key])
    assert [activation.path for activation, _ in seen.codes] == ["1"]


def test_a_module_that_was_compiled_and_traced_before():
    torch.compiler.reset()
    plain = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    x = torch.randn(B, 6, dtype=torch.float64)
    compiled = torch.compile(plain, backend="eager")
    compiled(x)
    seen = capture(compiled, x)
    assert set(seen.gradients) == {"0.weight", "2.weight"} and len(seen.codes) == 1


def test_nothing_is_compiled_in_a_session():
    torch.compiler.reset()
    net = torch.compile(nn.Sequential(nn.Linear(6, 3)).double(), backend=refuse)
    assert set(capture(net, torch.randn(B, 6, dtype=torch.float64)).gradients) == {"0.weight"}


@pytest.mark.parametrize("kind", ["linear", "conv", "attention"])
def test_autocast(kind):
    if kind == "attention":
        net = Net(lambda m, x: m.fc(m.attn(x, x, x)[0].mean(1)), attn=nn.MultiheadAttention(8, 2, batch_first=True))
        net.fc, x, layers = (
            nn.Linear(8, 3),
            torch.randn(B, 4, 8),
            ["attn.in_proj_weight", "attn.out_proj.weight", "fc.weight"],
        )
    elif kind == "conv":
        net, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3)), torch.randn(B, 3, 8, 8)
        layers = ["0.weight", "3.weight"]
    else:
        net, x = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(B, 6)
        layers = ["0.weight", "2.weight"]
    wanted, seen = loop(net, x, autocast=True), capture(net, x, autocast=True)
    assert set(seen.gradients) == set(layers), seen.uncovered
    for name in layers:
        same(seen.gradients[name], wanted[name], 0.03)  # the loop rounds each product to bfloat16
    assert all(p.dtype == torch.float32 for p in net.parameters())


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.body = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
        self.head = nn.Linear(6, 3)
        self.reentrant = reentrant

    def forward(self, x):
        return self.head(checkpoint(self.body, self.first(x), use_reentrant=self.reentrant))


def test_checkpointing_is_refused_with_the_way_out():
    batch = Batch(torch.randn(B, 6), targets_of())
    with pytest.raises(UnsupportedError, match=r"checkpoint.*switch it off"):
        score(Checkpointed(False), batch)


def test_reentrant_checkpointing_is_refused_or_reported():
    batch = Batch(torch.randn(B, 6), targets_of())
    try:
        result = score(Checkpointed(True), batch)
    except UnsupportedError as error:
        assert "checkpoint" in str(error)
    else:
        assert {"body.0.weight", "body.2.weight"} <= set(result.coverage.uncovered)


def test_scripted_parts_are_covered_and_named():
    body = torch.jit.script(nn.Sequential(nn.Linear(6, 6), nn.ReLU()).double())
    net = nn.Sequential(body, nn.Linear(6, 3).double())
    seen = capture(net, torch.randn(B, 6, dtype=torch.float64))
    assert "1.weight" in seen.gradients
    assert "0.0.weight" in seen.gradients or "0.0.weight" in seen.uncovered
    assert seen.forward.opaque


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_traced_model_is_covered():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).double()
    traced = torch.jit.trace(net, image())
    check(traced, image())


# ---------------------------------------------------------------- activations


def outputs_by_hand(net, x, watched):
    """Outputs of modules by plain forward hooks of the test's own, cloned before anything can overwrite them."""
    found = []
    handles = [m.register_forward_hook(lambda m, args, out: found.append(out.detach().clone())) for m in watched]
    with torch.no_grad():
        net.eval()(x.clone())
    for handle in handles:
        handle.remove()
    return found


TORCH_ACTIVATIONS = {
    "ReLU": nn.ReLU(),
    "ReLU-inplace": nn.ReLU(inplace=True),
    "ReLU6": nn.ReLU6(),
    "LeakyReLU": nn.LeakyReLU(0.1),
    "LeakyReLU-inplace": nn.LeakyReLU(0.1, inplace=True),
    "PReLU": nn.PReLU(6),
    "RReLU": nn.RReLU(),
    "ELU": nn.ELU(inplace=True),
    "SELU": nn.SELU(),
    "CELU": nn.CELU(),
    "GELU": nn.GELU(),
    "GELU-tanh": nn.GELU(approximate="tanh"),
    "SiLU": nn.SiLU(),
    "SiLU-inplace": nn.SiLU(inplace=True),
    "Mish": nn.Mish(),
    "Mish-inplace": nn.Mish(inplace=True),
    "Hardswish": nn.Hardswish(),
    "Hardswish-inplace": nn.Hardswish(inplace=True),
    "Hardtanh-0-6": nn.Hardtanh(0.0, 6.0),
    "Softplus": nn.Softplus(),
    "Threshold": nn.Threshold(0.1, 0.0),
}


@pytest.mark.parametrize("name", TORCH_ACTIVATIONS)
def test_activation_modules_of_torch(name):
    net = nn.Sequential(nn.Linear(6, 6), TORCH_ACTIVATIONS[name], nn.Linear(6, 3)).double()
    x = torch.randn(B, 6, dtype=torch.float64)
    seen = capture(net, x)
    assert [activation.path for activation, _ in seen.codes] == ["1"]
    assert torch.equal(seen.codes[0][1], outputs_by_hand(net, x, [net[1]])[0] > 0)


FUNCTIONS = {
    "F.relu": F.relu,
    "F.relu-inplace": lambda x: F.relu(x, inplace=True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "Tensor.relu": lambda x: x.relu(),
    "Tensor.relu_": lambda x: x.relu_(),
    "F.relu6": F.relu6,
    "F.gelu": F.gelu,
    "F.silu": F.silu,
    "F.silu-inplace": lambda x: F.silu(x, inplace=True),
    "F.hardswish": F.hardswish,
    "F.hardswish-inplace": lambda x: F.hardswish(x, inplace=True),
    "F.mish": F.mish,
    "F.leaky_relu": F.leaky_relu,
    "F.elu": F.elu,
    "F.elu_": F.elu_,
    "F.prelu": lambda x: F.prelu(x, x.new_tensor([0.1])),
    "F.hardtanh-0-6": lambda x: F.hardtanh(x, 0.0, 6.0),
    "F.hardtanh-kwargs": lambda x: F.hardtanh(x, min_val=0.0, max_val=6.0),
    "F.softplus": F.softplus,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activation_functions(name):
    function = FUNCTIONS[name]
    net = Net(lambda m, x: m.b(function(m.a(x))), a=nn.Linear(6, 5), b=nn.Linear(5, 3)).double()
    x = torch.randn(B, 6, dtype=torch.float64)
    seen = capture(net, x)
    assert len(seen.codes) == 1, "counted once, however many functions call one another"
    with torch.no_grad():
        assert torch.equal(seen.codes[0][1], function(net.a(x)) > 0)


def activation_of(path):
    module, _, name = path.rpartition(".")
    return getattr(pytest.importorskip(module), name)


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("timm.layers.activations.Swish", {}),
        ("timm.layers.activations.Mish", {}),
        ("timm.layers.activations.PReLU", {}),
        ("timm.layers.activations.GELU", {}),
        ("timm.layers.activations.GELUTanh", {}),
        ("timm.layers.activations.QuickGELU", {}),
        ("timm.layers.activations.HardSwish", {}),
        ("timm.layers.activations.HardMish", {}),
        ("timm.layers.activations_me.SwishMe", {}),
        ("timm.layers.activations_me.HardSwishMe", {}),
        ("timm.models.metaformer.StarReLU", {}),
        ("timm.models.metaformer.SquaredReLU", {}),
        ("transformers.activations.GELUActivation", {}),
        ("transformers.activations.NewGELUActivation", {}),
        ("transformers.activations.FastGELUActivation", {}),
        ("transformers.activations.QuickGELUActivation", {}),
        ("transformers.activations.AccurateGELUActivation", {}),
        ("transformers.activations.ClippedGELUActivation", {"min": -10, "max": 10}),
        ("transformers.activations.MishActivation", {}),
        ("transformers.activations.LaplaceActivation", {}),
        ("transformers.activations.ReLUSquaredActivation", {}),
        ("transformers.activations.SiLUActivation", {}),
    ],
)
def test_activation_classes_of_timm_and_transformers(path, arguments):
    module, _, name = path.rpartition(".")
    cls = getattr(pytest.importorskip(module), name, None)
    if cls is None:
        pytest.skip("not in this version")
    net = nn.Sequential(nn.Linear(6, 6), cls(**arguments), nn.Linear(6, 3)).double()
    x = torch.randn(B, 6, dtype=torch.float64)
    seen = capture(net, x)
    assert [activation.path for activation, _ in seen.codes] == ["1"], "one activation, counted once"
    assert torch.equal(seen.codes[0][1], outputs_by_hand(net, x, [net[1]])[0] > 0)


def test_gelu_codes_are_two_valued():
    net = nn.Sequential(nn.GELU(), nn.Linear(4, 3)).double()
    x = torch.tensor([[0.0, -40.0, -1.0, 1.0]] * B, dtype=torch.float64)
    assert capture(net, x).codes[0][1].tolist() == [[False, False, False, True]] * B


def test_reused_activations_are_counted_call_by_call():
    net = Net(lambda m, x: m.c(m.act(m.b(m.act(m.a(x)))) + m.act(m.a(x))), act=nn.ReLU(inplace=True))
    net.a, net.b, net.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
    net.double()
    x = torch.randn(B, 6, dtype=torch.float64)
    seen = capture(net, x)
    assert [(activation.path, activation.call) for activation, _ in seen.codes] == [("act", 0), ("act", 1), ("act", 2)]
    assert len({activation.name for activation, _ in seen.codes}) == 3
    for (_, code), wanted in zip(seen.codes, outputs_by_hand(net, x, [net.act]), strict=True):
        assert torch.equal(code, wanted > 0)


def test_functional_activations_are_named_after_the_module_that_calls_them():
    inner = Net(lambda m, x: F.relu(m.fc(F.relu(x))), fc=nn.Linear(6, 6))
    net = nn.Sequential(nn.Linear(6, 6), inner, nn.Linear(6, 3)).double()
    seen = capture(net, torch.randn(B, 6, dtype=torch.float64))
    assert [activation.path for activation, _ in seen.codes] == ["1", "1"]
    assert [activation.call for activation, _ in seen.codes] == [0, 1]


def test_in_place_activation_is_coded_before_it_is_overwritten():
    def forward(m, x):
        y = F.silu(m.a(x))
        y.neg_().sub_(1)  # what a reference would show afterwards
        return m.b(y)

    net = Net(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 3)).double()
    x = torch.randn(B, 6, dtype=torch.float64)
    seen = capture(net, x)
    with torch.no_grad():
        assert torch.equal(seen.codes[0][1], net.a(x) > 0)


def test_gates_and_clamps_are_kept_apart():
    def forward(m, x):
        y = m.a(x)
        y = y * m.gate(y.sigmoid()) + torch.tanh(y) + F.hardsigmoid(y) + F.hardtanh(y)
        return m.b(y.clamp(-1, 1).clamp_(min=-0.5).relu())

    net = Net(forward, a=nn.Linear(6, 6), gate=nn.Sigmoid(), b=nn.Linear(6, 3)).double()
    seen = capture(net, torch.randn(B, 6, dtype=torch.float64))
    assert [activation.function for activation, _ in seen.codes] == ["relu"]
    kinds = [other.kind for other in seen.forward.others]
    assert kinds.count("gate") == 4 and kinds.count("clamp") == 3


def test_hard_sigmoid_written_with_relu6_is_a_gate():
    class HardSigmoid(nn.Module):
        def forward(self, x):
            return F.relu6(x + 3) / 6

    net = nn.Sequential(nn.Linear(6, 6), HardSigmoid(), nn.ReLU(), nn.Linear(6, 3)).double()
    seen = capture(net, torch.randn(B, 6, dtype=torch.float64))
    assert [activation.path for activation, _ in seen.codes] == ["2"]
    assert [other.kind for other in seen.forward.others] == ["gate"]


@pytest.fixture
def own_table(monkeypatch):
    """What a test registers is forgotten afterwards."""
    monkeypatch.setattr(activations, "_FUNCTIONS", dict(activations._FUNCTIONS))
    monkeypatch.setattr(activations, "_CLASSES", dict(activations._CLASSES))


@pytest.mark.usefixtures("own_table")
def test_activation_of_ones_own():
    class WaveletUnit(nn.Module):
        def forward(self, x):
            return F.relu(x) * x.cos()

    net = nn.Sequential(nn.Linear(6, 6), WaveletUnit(), nn.Linear(6, 3)).double()
    x = torch.randn(B, 6, dtype=torch.float64)
    assert [activation.function for activation, _ in capture(net, x).codes] == ["relu"]
    register_activation(WaveletUnit)
    seen = capture(net, x)
    assert [(activation.path, activation.function) for activation, _ in seen.codes] == [("1", "WaveletUnit")]
    assert torch.equal(seen.codes[0][1], outputs_by_hand(net, x, [net[1]])[0] > 0)


@pytest.mark.usefixtures("own_table")
def test_function_of_ones_own_and_a_gate_of_ones_own():
    register_activation(torch.sinc)
    register_activation(torch.erf, "gate")
    net = Net(lambda m, x: m.b(torch.sinc(m.a(x)) * torch.erf(x)), a=nn.Linear(6, 6), b=nn.Linear(6, 3)).double()
    x = torch.randn(B, 6, dtype=torch.float64)
    seen = capture(net, x)
    assert [activation.function for activation, _ in seen.codes] == ["sinc"]
    assert [(other.function, other.kind) for other in seen.forward.others] == [("erf", "gate")]
    with torch.no_grad():
        assert torch.equal(seen.codes[0][1], torch.sinc(net.a(x)) > 0)


def test_windowed_activations_belong_to_their_samples():
    def forward(m, x):
        b, c, h, w = x.shape
        x = x.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        return pooled(F.gelu(m.fc(x)).view(b, -1))

    net = Net(forward, fc=nn.Linear(3, 4)).double()
    x = image()
    seen = capture(net, x)
    with torch.no_grad():
        alone = torch.stack([(F.gelu(net.fc(windows(x[i : i + 1]))) > 0).flatten() for i in range(B)])
    assert torch.equal(seen.codes[0][1], alone)


def windows(x):
    b, c, h, w = x.shape
    return x.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)


def test_activation_without_a_sample_axis_is_reported():
    def forward(m, x):
        table = F.relu(m.position(torch.arange(2.0 * B, dtype=x.dtype)[:, None]))
        return m.fc(F.relu(x)) + table.mean()

    net = Net(forward, position=nn.Linear(1, 4), fc=nn.Linear(6, 3)).double()
    seen = capture(net, torch.randn(B, 6, dtype=torch.float64))
    assert len(seen.codes) == 1 and len(seen.forward.unplaced) + len(seen.forward.shared) == 1


def test_feeding_activation_of_each_layer():
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 3)).double()
    seen = capture(net, torch.randn(B, 6, dtype=torch.float64))
    assert seen.forward.fed_by == {"2.weight": 0, "4.weight": 1}


def test_double_hooks_leave_nothing_behind():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).double()
    for _ in range(2):
        capture(net, image())
    for module in net.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks and not module._backward_hooks
        assert not module._forward_hooks_always_called and not module._forward_hooks_with_kwargs
