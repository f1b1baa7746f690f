"""How long a report of 2,000 candidates takes to open, to sort and to filter, in a real Chromium.

    python benchmarks/report_page.py [--candidates 2000] [--rounds 5]

Candidates, scores of two proxies and two seeds, sizes, and the layers of thirty are made up; the page is the one that
`lswag report` writes. Every round is a fresh browser at 360 or at 1440 pixels. Milliseconds, median and worst:

- open: from the start of the navigation until the table is painted and its buttons work;
- sort, filter, show all: from the click or the key until the next frame is painted;
- first picture: from where it is scrolled to until it is painted (its library is read then); second picture: the same.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import statistics
import tempfile
from typing import Any

import numpy as np

from lswag_hooks.coverage import Coverage
from lswag_hooks.profile import LayerProfile, WeightRow
from lswag_hooks.report.html import report
from lswag_hooks.results import ScoreResult
from lswag_hooks.store import Key, Record, Store, canonical

SEEDS = (0, 1)
LAYERS = 60
PAINTED = "new Promise(done => requestAnimationFrame(() => setTimeout(() => done(performance.now()), 0)))"
# when the first frame was painted after the page's own script had run
WATCH = """
const look = () => {
  const status = document.querySelector('.shown');
  if (status && status.textContent) setTimeout(() => { window.opened = performance.now(); }, 0);
  else requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""


def fill(path: pathlib.Path, candidates: int) -> None:
    """A store of made-up scores, each with the layers of a made-up network."""
    rng = np.random.default_rng(0)
    layers = [
        WeightRow(
            f"blocks.{number}.conv", "conv", (64, 64, 3, 3), 36864, 10 * number // LAYERS,
            trainability=float(10 + rng.normal()), mean_deviation=float(rng.lognormal(-5)), terms={"lswag": 1000.0},
        )
        for number in range(LAYERS)
    ]  # fmt: skip
    texts = {"proxies": {"lswag": {"proxy": "lswag", "interval": [3, 7]}}}
    result = ScoreResult({"lswag": 1.0}, {}, LayerProfile(layers, []), Coverage(), 0.5, 64, 10**6, texts).to_text()
    records, details = [], []
    for number in range(candidates):
        name, size = f"timm/network_{number:05}", float(rng.integers(10**5, 10**8))
        lost = "it is made up that this one could not be scored" if number % 100 == 99 else None
        for seed in SEEDS:
            for proxy in ("lswag", "zico"):
                key = Key(name, canonical({"proxy": proxy}), seed, "5f1e", "", "{}")
                value = np.nan if lost else float(np.log(size) * (1 + 0.3 * rng.normal()))
                records.append(Record(key, value, lost, 0.5, size, 50 * size))
            details.append((Key(name, canonical({"proxy": "lswag"}), seed, "5f1e", "", "{}"), result))
    with Store(path) as store:
        store.put(records, details)


def clock(page: Any, act: str) -> float:
    """Milliseconds of an action in the page, until the frame behind it is painted."""
    script = f"const from = performance.now(); {act}; return await {PAINTED} - from;"
    return float(page.evaluate(f"(async () => {{ {script} }})()"))


def one_round(playwright: Any, chromium: str, address: str, width: int) -> dict[str, float]:
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.add_init_script(WATCH)
    page.goto(address, wait_until="commit")
    page.wait_for_load_state("load")
    page.evaluate(PAINTED)
    found = {"open": float(page.evaluate("window.opened"))}
    heading = "document.querySelectorAll('#ranking-0 thead button')"
    found["sort by score"] = clock(page, f"{heading}[2].click()")
    found["sort by name"] = clock(page, f"{heading}[1].click()")
    field = (
        "const field = document.querySelector('.filter'); field.value = '{}'; field.dispatchEvent(new Event('input'))"
    )
    found["filter to few"] = clock(page, field.format("0042"))
    found["filter to all"] = clock(page, field.format(""))
    found["show all"] = clock(page, "document.querySelector('.all').click()")
    found["sort all"] = clock(page, f"{heading}[2].click()")
    for which, name in (("first", "scores"), ("second", "layers")):
        plot = f"document.querySelector('.plot-{name}')"
        drawn = f"while (!{plot}.querySelector('.point')) await {PAINTED}"
        found[f"{which} picture"] = clock(page, f"{plot}.scrollIntoView(); {drawn}")
    browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no Chromium on the path")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        store, html = pathlib.Path(folder) / "store.db", pathlib.Path(folder) / "report.html"
        fill(store, options.candidates)
        html.write_text(report(store), encoding="utf-8")
        print(f"{options.candidates} candidates, a page of {html.stat().st_size / 1e6:.1f} MB")
        for width in (360, 1440):
            rounds = [one_round(playwright, chromium, html.as_uri(), width) for _ in range(options.rounds)]
            for what in rounds[0]:
                times = [one[what] for one in rounds]
                print(f"{width:5} px  {what:14} median {statistics.median(times):6.0f} ms, worst {max(times):6.0f} ms")


if __name__ == "__main__":
    main()
