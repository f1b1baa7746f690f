"""What search, store and engines cost beside scoring, and how far they carry.

    python benchmarks/engines.py --out OUT          # a few minutes

1. Architectures per second of a random search on NAS-Bench-201 with 1, 2 and 4 workers, and what search, store and
   engine take beside scoring: the wall-clock time of all workers less the seconds that scoring alone took, as a share.
2. Writes per second of the store: one process, and several at once.
3. A simulation: a scorer that only sleeps, up to 64 workers, each score kept before the next is handed out. It scales
   until the one process that writes is busy.
4. Early exit: the same search with a requirement (SWAP at least its median), with and without leaving out what that
   makes needless, for L-SWAG, whose pass gives SWAP as well, and for TE-NAS's kernel, which costs five times as much.

Written are ``engines-search.csv``, ``engines-writes.csv``, ``engines-simulation.csv``, ``engines-exit.csv``, and all of
it as ``engines.md``.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import pathlib
import tempfile
import time
from collections.abc import Sequence

import pandas as pd
import torch

import lswag_hooks as lh
from lswag_hooks.engines import run
from lswag_hooks.measuring import Measured, Work, keep_measured
from lswag_hooks.proxies import resolve_proxies
from lswag_hooks.search import Evolution, RandomSearch, search
from lswag_hooks.store import Key, Record, Store

PROXIES = tuple(resolve_proxies("lswag,zico,swap"))


def throughput(folder: pathlib.Path, workers: int, evaluations: int, samples: int) -> dict[str, float]:
    """A search with a store, in so many workers."""
    batch = lh.Batch.builtin("digits", size=(3, 32, 32), samples=samples)
    path = folder / f"search-{workers}.db"
    found = search(
        "nasbench201", batch, "lswag", algorithm=RandomSearch(50), evaluations=evaluations, seed=1,
        store=path, workers=workers, progress=False,
    )  # fmt: skip
    return {
        "workers": workers,
        "per_second": evaluations / found.seconds,
        "seconds": found.seconds,
        "scoring": found.scoring_seconds,
        # of one worker: the machine has not the cores for the waiting of several to say something
        "overhead": found.seconds / found.scoring_seconds - 1 if workers == 1 else float("nan"),
    }


def records(number: int) -> list[Record]:
    key = Key("", '{"proxy":"lswag"}', 0, "5f1e", "nasbench201")
    return [Record(dataclasses.replace(key, candidate=f"architecture {number}"), 1.0)]


def write(path: pathlib.Path, first: int, seconds: float, written: multiprocessing.Queue) -> None:
    number, end = first, time.perf_counter() + seconds
    with Store(path) as store:
        while time.perf_counter() < end:
            store.put(records(number))
            number += 1
    written.put(number - first)


def writes(folder: pathlib.Path, processes: int, seconds: float = 3.0) -> float:
    """Scores a second that so many processes write at once, each on the disk before the next."""
    context = multiprocessing.get_context("fork")
    written, path = context.Queue(), folder / f"writes-{processes}.db"
    Store(path).close()
    crew = [context.Process(target=write, args=(path, 10**8 * number, seconds, written)) for number in range(processes)]
    for one in crew:
        one.start()
    total = sum(written.get() for _ in crew)
    for one in crew:
        one.join()
    return total / seconds


def nap(seconds: float, job: str) -> Measured:
    """A scorer that takes no processor."""
    time.sleep(seconds)
    return Measured({proxy.key: 1.0 for proxy in PROXIES}, seconds=seconds)


def simulated(folder: pathlib.Path, workers: int, nap_seconds: float, seconds: float = 5.0) -> dict[str, float]:
    """Candidates a second with a scorer that sleeps, each kept in a store; the start of the workers does not count."""
    jobs = [f"architecture {number}" for number in range(int(2 * workers + workers * seconds / nap_seconds))]
    batch = lh.Batch.builtin("noise", size=8, samples=2)
    work = Work(lh.get_space("nasbench201"), "cifar10", batch, PROXIES)
    done, busy, start = 0, 0.0, 0.0
    with Store(folder / f"nap-{workers}-{nap_seconds}.db") as store:
        for index, outcome in run(nap, jobs, payload=nap_seconds, workers=workers, threads=1):
            before = time.perf_counter()
            keep_measured(store, work, jobs[index], outcome)
            busy += time.perf_counter() - before
            done += 1
            if done == workers:  # all are there
                start, busy = time.perf_counter(), 0.0
            if done > workers and time.perf_counter() - start > seconds:
                break
    took = time.perf_counter() - start
    rate = (done - workers) / took
    return {
        "workers": workers,
        "scorer_seconds": nap_seconds,
        "per_second": rate,
        "ideal": workers / nap_seconds,
        "share_of_ideal": rate * nap_seconds / workers,
        "writing": busy / took,
    }


def early_exit(evaluations: int, samples: int, proxies: Sequence[str] = ("lswag", "te_nas_kappa")) -> pd.DataFrame:
    """Processor seconds of the same search with and without, and whether it finds the same."""
    batch = lh.Batch.builtin("digits", size=(3, 32, 32), samples=samples)
    options = {"evaluations": evaluations, "seed": 2, "progress": False}
    swap = search("nasbench201", batch, "swap", algorithm=RandomSearch(50), **options).to_pandas()["swap"]
    algorithm, rows = Evolution(population=20, mutations=10, crossovers=10), []
    for proxy in proxies:
        found = []
        for early in (True, False):
            start = time.process_time()  # other work on the machine does not count
            one = search(
                "nasbench201", batch, proxy, algorithm=algorithm, require={"swap": float(swap.median())},
                early_exit=early, **options,
            )  # fmt: skip
            found.append((one.seen.architectures, one.top(10)))
            seconds = time.process_time() - start
            rows.append({"proxy": proxy, "early": early, "seconds": seconds, "left_out": one.spared})
        same = found[0] == found[1]
        rows[-2:] = [{**row, "scored": evaluations, "same": same} for row in rows[-2:]]
    return pd.DataFrame(rows)


def markdown(
    searches: pd.DataFrame, written: pd.DataFrame, naps: pd.DataFrame, exits: pd.DataFrame, samples: int
) -> str:
    first = searches.iloc[0]
    lines = [
        f"L-SWAG on NAS-Bench-201, {samples} images of 32 x 32, one thread a worker:",
        "",
        "| workers | architectures a second | times one worker |",
        "|---|---|---|",
        *(
            f"| {one.workers} | {one.per_second:.2f} | {one.per_second / first.per_second:.2f} |"
            for one in searches.itertuples()
        ),
        "",
        f"Search, store and engine take {first.overhead:.1%} beside scoring.",
        "",
        "| processes that write at once | writes a second |",
        "|---|---|",
        *(f"| {one.processes} | {one.per_second:,.0f} |" for one in written.itertuples()),
        "",
        "| workers | scorer | candidates a second | of the ideal | time spent writing |",
        "|---|---|---|---|---|",
        *(
            f"| {one.workers} | {1e3 * one.scorer_seconds:.0f} ms | {one.per_second:,.1f} | {one.share_of_ideal:.0%} | "
            f"{one.writing:.0%} |"
            for one in naps.itertuples()
        ),
        "",
        "| score | with a requirement | processor seconds | scored in part only | same search, same result |",
        "|---|---|---|---|---|",
        *(
            f"| {one.proxy} | {'early exit' if one.early else 'all of each'} | {one.seconds:.0f} | "
            f"{one.left_out} of {one.scored} | {'yes' if one.same else 'no'} |"
            for one in exits.itertuples()
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    # on the disk of the results, where a store would lie: a folder in memory would be no measure
    with tempfile.TemporaryDirectory(dir=options.out) as name:
        folder = pathlib.Path(name)
        searches = pd.DataFrame([throughput(folder, n, options.evaluations, options.samples) for n in options.workers])
        print(searches, flush=True)
        written = pd.DataFrame([{"processes": n, "per_second": writes(folder, n)} for n in (1, 2, 4, 8)])
        print(written, flush=True)
        naps = pd.DataFrame([simulated(folder, n, nap) for nap in (1.0, 0.1, 0.01) for n in (1, 4, 16, 64)])
        print(naps, flush=True)
    exits = early_exit(options.evaluations, options.samples)
    for what, frame in (("search", searches), ("writes", written), ("simulation", naps), ("exit", exits)):
        frame.assign(what=what).to_csv(options.out / f"engines-{what}.csv", index=False)
    text = markdown(searches, written, naps, exits, options.samples)
    (options.out / "engines.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
