"""Benchmarks: formats are read as their publishers lay them out, and what is missing says where to obtain it."""

import bz2
import collections
import gzip
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lswag_hooks.benchmark import Benchmark
from lswag_hooks.errors import InputError
from lswag_hooks.readers import KNOWN
from lswag_hooks.spaces import get_space

BEST = "|nor_conv_3x3~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
DEAD = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


@pytest.fixture
def data() -> Path:
    if "LSWAG_DATA" not in os.environ:
        pytest.skip("LSWAG_DATA names no folder of benchmark tables")
    return Path(os.environ["LSWAG_DATA"])


# ---------------------------------------------------------------- the object


def small() -> pd.DataFrame:
    rows = [("a", "x", 1.0, 10.0), ("a", "y", 3.0, np.nan), ("b", "x", 5.0, 1.0), ("a", "z", np.nan, 2.0)]
    return pd.DataFrame([*rows, ("a", "x", 7.0, 0.0)], columns=["task", "architecture", "accuracy", "zen"])


def test_a_task_has_the_architectures_of_known_accuracy_each_once_in_order() -> None:
    benchmark = Benchmark("mine", None, small())
    assert benchmark.tasks == ["a", "b"]
    assert benchmark.architectures("a") == ["x", "y"]
    assert benchmark.accuracy("a").to_dict() == {"x": 1.0, "y": 3.0}
    assert benchmark.proxies("a")["zen"].isna().to_dict() == {"x": False, "y": True}
    with pytest.raises(InputError, match=r"no task 'c'.*a, b"):
        benchmark.accuracy("c")


def test_samples_are_deterministic_nested_and_without_replacement() -> None:
    benchmark = Benchmark.load("nasbench201")
    few, more = benchmark.sample("cifar10", 20, seed=3), benchmark.sample("cifar10", 60, seed=3)
    names = few.architectures("cifar10")
    assert len(set(names)) == 20
    assert names == benchmark.sample("cifar10", 20, seed=3).architectures("cifar10")
    assert set(names) < set(more.architectures("cifar10"))
    assert set(names) != set(benchmark.sample("cifar10", 20, seed=4).architectures("cifar10"))
    pd.testing.assert_series_equal(few.accuracy("cifar10"), benchmark.accuracy("cifar10")[names])
    assert benchmark.sample("cifar10").to_pandas().equals(benchmark.to_pandas())


@pytest.mark.parametrize("n", [0, -1, 501])
def test_a_sample_of_more_than_there_are_is_refused(n: int) -> None:
    with pytest.raises(InputError, match="has 500 architectures"):
        Benchmark.load("nasbench201").sample("cifar10", n)


def test_samples_are_uniform() -> None:
    benchmark = Benchmark.load("nasbench201").sample("cifar10", 10)
    order = benchmark.architectures("cifar10")
    counts = collections.Counter(
        name for seed in range(400) for name in benchmark.sample("cifar10", 3, seed=seed).architectures("cifar10")
    )
    assert sum(counts.values()) == 1200
    assert sum((counts[name] - 120) ** 2 / 120 for name in order) < 27.9  # chi-squared, 9 degrees, one in a thousand


# ---------------------------------------------------------------- what comes with the package


def test_the_bundled_table_is_500_architectures_of_the_space() -> None:
    benchmark = Benchmark.load("nasbench201")
    space = get_space("nasbench201")
    names = benchmark.architectures("cifar10")
    assert (benchmark.space, benchmark.tasks, len(names)) == ("nasbench201", ["cifar10"], 500)
    known = benchmark.proxies("cifar10")
    assert known.shape == (500, 13)
    costs = {name: space.cost(name) for name in names}
    checked = known.dropna(subset=["params", "flops"])
    assert len(checked) == 306
    for name, row in checked.iterrows():
        assert row["params"] == pytest.approx(costs[name].params / 1e6, rel=1e-5)
        assert row["flops"] == pytest.approx(costs[name].flops / 1e6, rel=1e-5)
    accuracy = benchmark.accuracy("cifar10")
    cut = [name for name in names if "disconnected" in (space.validate(name) or "")]
    assert cut and all(accuracy[name] == 10 for name in cut)
    assert all(accuracy[name] > 10 for name in set(names) - set(cut))


def test_the_bundled_table_agrees_with_the_published_one(data: Path) -> None:
    bundled = Benchmark.load("nasbench201").accuracy("cifar10")
    published = Benchmark.load(data / "benchmarks/nasbench201.csv.gz").accuracy("cifar10")
    assert len(published) == 15625
    assert (published[bundled.index] == bundled).all()


# ---------------------------------------------------------------- tables


def test_marks_for_no_value_are_nan(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"task,arch,val_accuracy,zen,nwot,synflow\nT,{BEST},91.5,1.5,-inf,\nT,{DEAD},10,-1e8,2,inf\n")
    benchmark = Benchmark.load(path)
    assert (benchmark.space, benchmark.name, benchmark.source) == ("nasbench201", "table", str(path))
    proxies = benchmark.proxies("t")  # tasks in lower case
    assert list(proxies) == ["zen", "nwot"]
    assert proxies.loc[BEST].isna().to_dict() == {"zen": False, "nwot": True}
    assert proxies.loc[DEAD].isna().to_dict() == {"zen": True, "nwot": False}


def test_every_published_table_is_read_whole(data: Path) -> None:
    expected = {
        "benchmarks/nasbench101.csv.gz": ("nasbench101", {"cifar10": 300}),
        "benchmarks/nasbench301.csv.gz": ("darts", {"cifar10": 800}),
        "benchmarks/transbench101_micro.csv.gz": (
            "transnasbench_micro",
            dict.fromkeys(("autoencoder", "class_object", "jigsaw", "segmentsemantic"), 4096),
        ),
        "benchmarks/transbench101_macro.csv.gz": (
            "transnasbench_macro",
            dict.fromkeys(("autoencoder", "jigsaw", "normal"), 3256),
        ),
        "vit/autoformer_tiny_imagenet.csv": ("autoformer_tiny", {"imagenet_top1_inherited": 1001}),
        "vit/hytas_hyperspectral.csv.gz": (None, {"indian": 2000, "houston": 1966}),
        "timm/timm_imagenet1k.csv": ("timm", {"imagenet1k_max": 300, "imagenet1k_median": 300}),
    }
    for name, (space, sizes) in expected.items():
        benchmark = Benchmark.load(data / name)
        assert benchmark.space == space
        assert {task: len(benchmark.architectures(task)) for task in benchmark.tasks} == sizes
        if space not in (None, "timm"):
            known = get_space(space)
            for architecture in benchmark.architectures(benchmark.tasks[0])[:50]:
                known.parse(architecture)


def test_autoformer_tables(tmp_path: Path) -> None:
    path = tmp_path / "prox.csv"
    ratios = "-".join(["3.5"] * 12)
    path.write_text(
        "source_file,index,hidden_dim,depth,num_heads,mlp_ratio,c100_base_acc,flower_kd_acc\n"
        f"a,0,192,12,{'-'.join('4' * 12)},{ratios},68.5,\nb,1,240,12,{'-'.join('3' * 12)},{ratios},70,60.5\n"
    )
    benchmark = Benchmark.load(path)
    assert (benchmark.space, benchmark.tasks) == ("autoformer_tiny", ["c100_base_acc", "flower_kd_acc"])
    assert list(benchmark.accuracy("c100_base_acc")) == [68.5, 70]
    assert len(benchmark.architectures("flower_kd_acc")) == 1
    wide, narrow = (get_space("autoformer_tiny").cost(name).params for name in benchmark.architectures("c100_base_acc"))
    assert wide < narrow  # 240 channels and 3 heads against 192 and 4


def test_autoformer_architectures_have_the_published_sizes(data: Path) -> None:
    benchmark = Benchmark.load(data / "vit/autoformer_tiny_imagenet.csv").sample("imagenet_top1_inherited", 30)
    space = get_space("autoformer_tiny")
    for name, params in benchmark.proxies("imagenet_top1_inherited")["params"].items():
        assert space.cost(name).params == pytest.approx(params * 1e6, abs=1)


def test_timm_architectures_can_be_built_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(
        "arch,top1_max,top1_median,n,param_count,img_size,gmacs,family\nresnet18,71.5,70.25,4,11.69,224,1.82,resnet\n"
    )
    benchmark = Benchmark.load(path)
    assert benchmark.accuracy(benchmark.tasks[0]).to_dict() == {"timm/resnet18": 71.5}
    assert benchmark.accuracy("imagenet1k_median").to_dict() == {"timm/resnet18": 70.25}
    assert benchmark.proxies("imagenet1k_max").loc["timm/resnet18"].to_dict() == {"params": 11.69, "gmacs": 1.82}


# ---------------------------------------------------------------- JSON of NASLib


def write_json(path: Path, task: str, *keys: str) -> Path:
    entries = {
        key: {"id": index, "val_accuracy": 50.0 + index, "snip": {"score": index / 2, "time": 0.1}}
        for index, key in enumerate(keys)
    }
    path.write_text(json.dumps({task: entries}))
    return path


def test_json_of_nasbench201(tmp_path: Path) -> None:
    # edges 0-1, 0-2, 0-3, 1-2, 1-3, 2-3; 0 skip, 1 none, 2 conv 3x3, 3 conv 1x1, 4 pool
    path = write_json(tmp_path / "zc_nasbench201.json", "ImageNet16-120", "(2, 3, 0, 2, 3, 2)", "(4, 1, 1, 1, 1, 1)")
    benchmark = Benchmark.load(path)
    assert benchmark.space == "nasbench201"
    other = "|avg_pool_3x3~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    assert benchmark.accuracy("imagenet16-120").to_dict() == {BEST: 50.0, other: 51.0}
    assert benchmark.proxies("imagenet16-120")["snip"].to_dict() == {BEST: 0.0, other: 0.5}


@pytest.mark.parametrize(
    ("task", "key", "space", "architecture"),
    [
        (
            "cifar10",
            str((*[0, 1, 1], *[0, 0, 1], *[0, 0, 0], *[0, 4, 1])),
            "nasbench101",
            "011/001/000 input,conv3x3-bn-relu,output",
        ),
        (
            "cifar10",
            str((((0, 1), (1, 1), (1, 5), (2, 5), (1, 1), (3, 1), (3, 4), (1, 3)), ((0, 2), (1, 0)) * 4)),
            "darts",
            "normal avg_pool_3x3~0 avg_pool_3x3~1 dil_conv_3x3~1 dil_conv_3x3~2 avg_pool_3x3~1 avg_pool_3x3~3 "
            "sep_conv_5x5~3 sep_conv_3x3~1 reduce" + " skip_connect~0 max_pool_3x3~1" * 4,
        ),
        ("jigsaw", "(2, 3, 0, 1, 3, 0)", "transnasbench_micro", "64-41414-2_30_130"),
        ("jigsaw", "(2, 3, 1, 4)", "transnasbench_macro", "64-2314-basic"),
        ("jigsaw", "(2, 3, 1, 4, 0, 0)", "transnasbench_macro", "64-2314-basic"),
        ("cifar10", DEAD, "nasbench201", DEAD),
    ],
)
def test_json_of_other_spaces(tmp_path: Path, task: str, key: str, space: str, architecture: str) -> None:
    benchmark = Benchmark.load(write_json(tmp_path / "zc.json", task, key))
    assert (benchmark.space, benchmark.architectures(task)) == (space, [architecture])
    get_space(space).parse(architecture)


def test_json_of_plain_accuracies_and_of_a_space_that_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"jigsaw": {"(1, 1, 1, 1, 1, 1)": 0.5}}).encode()))
    assert Benchmark.load(path).architectures("jigsaw") == ["64-41414-1_11_111"]
    assert Benchmark.load(path, space="transnasbench_macro").accuracy("jigsaw").to_dict() == {"64-111111-basic": 0.5}
    with pytest.raises(InputError, match="burgerformer"):
        Benchmark.load(path, space="burgerformer")


# ---------------------------------------------------------------- NATS-Bench and NAS-Bench-201


def state(index: int, architecture: str, epochs: int, accuracies: dict[tuple[str, int], dict[str, float]]) -> dict:
    """One architecture's results under one schedule, as ``ArchResults.state_dict`` writes them."""
    seeds: dict[str, list[int]] = {}
    results = {}
    for (dataset, seed), last in accuracies.items():
        seeds.setdefault(dataset, []).append(seed)
        curve = {f"{split}@{epoch}": 1.0 for split in last for epoch in range(epochs - 1)}
        curve |= {f"{split}@{epochs - 1}": value for split, value in last.items()}
        results[dataset, seed] = {
            "name": dataset,
            "train_acc1es": collections.OrderedDict(enumerate([0.5] * epochs)),
            "arch_config": {"channel": 16, "num_cells": 5, "arch_str": architecture, "class_num": 10},
            "params": np.float64(0.8),
            "epochs": epochs,
            "latency": [np.float64(0.01)],
            "eval_names": list(last),
            "eval_acc1es": curve,
            "net_state_dict": None,
        }
    return {
        "arch_index": index,
        "arch_str": architecture,
        "all_results": results,
        "dataset_seed": seeds,
        "clear_net_done": True,
    }


def both_schedules(index: int, architecture: str, short: str, long: str) -> dict:
    early = {("cifar10-valid", 777): {"x-valid": 20.0}, ("cifar100", 777): {"x-valid": 2.0, "x-test": 3.0}}
    late = {
        ("cifar10-valid", 777): {"x-valid": 80.0 + index, "ori-test": 1.0},
        ("cifar10-valid", 888): {"x-valid": 81.0 + index, "ori-test": 1.0},
        ("cifar10", 777): {"ori-test": 90.0},
        ("cifar100", 777): {"x-valid": 60.0, "x-test": 61.0, "ori-test": 1.0},
    }
    return {short: state(index, architecture, 2, early), long: state(index, architecture, 4, late)}


def check_nats(benchmark: Benchmark) -> None:
    assert (benchmark.space, benchmark.tasks) == (
        "nasbench201",
        ["cifar10", "cifar100", "cifar10_test", "cifar100_test"],
    )
    assert benchmark.accuracy("cifar10").to_dict() == {BEST: 80.5, DEAD: 81.5}  # the mean over seeds, after all epochs
    assert benchmark.accuracy("cifar10_test").to_dict() == {BEST: 90.0, DEAD: 90.0}
    assert benchmark.accuracy("cifar100").to_dict() == {BEST: 60.0, DEAD: 60.0}
    assert benchmark.accuracy("cifar100_test").to_dict() == {BEST: 61.0, DEAD: 61.0}


def test_nats_bench_archive_and_file(tmp_path: Path) -> None:
    archive = tmp_path / "NATS-tss-v1_0-3ffb9-simple"
    archive.mkdir()
    infos = {index: both_schedules(index, name, "12", "200") for index, name in enumerate((BEST, DEAD))}
    for index, info in infos.items():
        (archive / f"{index:06d}.pickle.pbz2").write_bytes(bz2.compress(pickle.dumps(info, protocol=4)))
    meta = {"meta_archs": [BEST, DEAD], "evaluated_indexes": {0, 1}}
    (archive / "meta.pickle.pbz2").write_bytes(bz2.compress(pickle.dumps(meta)))
    check_nats(Benchmark.load(archive))
    whole = tmp_path / "NATS-tss-v1_0-3ffb9.pickle.pbz2"
    whole.write_bytes(bz2.compress(pickle.dumps({**meta, "arch2infos": infos}, protocol=4)))
    check_nats(Benchmark.load(whole))


def test_nasbench201_torch_file(tmp_path: Path) -> None:
    infos = {index: both_schedules(index, name, "less", "full") for index, name in enumerate((BEST, DEAD))}
    content = {"meta_archs": [BEST, DEAD], "arch2infos": infos, "evaluated_indexes": {0, 1}}
    path = tmp_path / "NAS-Bench-201-v1_1-096897.pth"
    torch.save(content, path, _use_new_zipfile_serialization=False)  # the published file is older than the new format
    written = path.read_bytes()
    path.write_bytes(written.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))  # and than NumPy 2
    check_nats(Benchmark.load(path))
    torch.save(content, path)
    check_nats(Benchmark.load(path))


class Unwelcome:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["file.pickle.pbz2", "file.pth"])
def test_a_pickle_runs_nothing_unless_it_is_trusted(tmp_path: Path, name: str) -> None:
    path, trace = tmp_path / name, tmp_path / "trace"
    infos = {0: both_schedules(0, BEST, "12", "200"), 1: both_schedules(1, DEAD, "12", "200")}
    content = {"arch2infos": infos, "extra": Unwelcome(trace)}
    if name.endswith("pbz2"):
        path.write_bytes(bz2.compress(pickle.dumps(content)))
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match="trusted=True"):
        Benchmark.load(path)
    assert not trace.exists()
    check_nats(Benchmark.load(path, trusted=True))
    assert trace.exists()


# ---------------------------------------------------------------- what cannot be read


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_missing_file_says_where_to_obtain_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"Obtain {name} from .*https://github\.com"):
        Benchmark.load(tmp_path / name)


def test_a_missing_name_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"zc_transbench101_micro\.json"):
        Benchmark.load("transnasbench_micro")
    with pytest.raises(InputError, match="Did you mean 'nasbench201'"):
        Benchmark.load("nasbench_201")
    with pytest.raises(InputError, match="Give a file"):
        Benchmark.load("quite/other.csv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "damaged"),
        ("a.csv", b"x,y\n1,2\n", r"its columns are x, y.*task"),
        ("a.csv.gz", b"no gzip", "damaged"),
        ("a.csv.gz", gzip.compress(b"task,arch,val_accuracy\n" * 999, mtime=0)[:-20], "damaged"),
        ("a.json", b"{", "damaged"),
        ("a.json", b"[1, 2]", "no mapping"),
        ("a.json", b'{"cifar10": {"(0, 1, 2": {"val_accuracy": 1}}}', "damaged"),
        ("a.json", b'{"cifar10": {"(0, 1, 2, 3, 4, 9)": {"val_accuracy": 1}}}', "six numbers"),
        ("a.json", b'{"cifar10": {"(0, 1, 2, 3, 4, 0)": {"accuracy": 1}}}', "val_accuracy"),
        ("a.pickle.pbz2", b"no bz2", "damaged"),
        ("a.pickle.pbz2", bz2.compress(b"no pickle"), "no pickle"),
        ("a.pickle.pbz2", bz2.compress(pickle.dumps({"other": 1})), "arch2infos"),
        ("a.pth", b"no torch file", "torch cannot load"),
        ("a.txt", b"", "give a .csv"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        Benchmark.load(path)
    assert str(path) in str(caught.value)
