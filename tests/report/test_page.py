"""A store as a page of HTML: what stands in it, and what it does in a browser."""

import json
import math
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy import stats

import lswag_hooks as lh
from lswag_hooks.cli import main
from lswag_hooks.errors import InputError
from lswag_hooks.report.html import report
from lswag_hooks.store import FailedAttempt, Key, Record, Store, canonical

pytest.importorskip("jinja2")
pytest.importorskip("plotly")

VOID = {"meta", "input", "br", "link", "img"}
NASTY = "</script><script>alert(1)</script>&\"'"


class Page(HTMLParser):
    """Elements of a page, each with its attributes, its text and the tags that it stands in."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", "in": list(self.open), **dict(attributes)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, text):
        for element in self.open:
            element["text"] += text

    def all(self, tag, **wanted):
        return [e for e in self.elements if e["tag"] == tag and all(e.get(k) == v for k, v in wanted.items())]

    def inside(self, element, *tags):
        return [e for e in self.elements if e["tag"] in tags and any(o is element for o in e["in"])]

    def table(self, element):
        return [[cell["text"].strip() for cell in self.inside(row, "td", "th")] for row in self.inside(element, "tr")]


def proxy(name, **settings):
    return canonical({"proxy": name, **settings})


def fill(path, scores, seeds=(0,), space="", batch="5f1e", params=None, conditions="{}"):
    """A store with scores by candidate and proxy, seed by seed a little more."""
    with Store(path) as store:
        store.put(
            Record(
                Key(name, text, seed, batch, space, conditions), value + seed, None if value == value else "it is flat",
                0.5, None if params is None else params[name], None,
            )
            for name, by_proxy in scores.items()
            for text, value in by_proxy.items()
            for seed in seeds
        )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A ranking with profiles and failures, its store and its page."""
    path = tmp_path_factory.mktemp("report") / "scores.db"
    batch = lh.Batch.builtin("digits", size=(3, 32, 32), samples=4)
    names = ["timm/test_vit", "timm/test_resnet", "timm/test_efficientnet", "timm/nosuchnet"]
    ranking = lh.rank(names, batch, [lh.LSWAG(interval=(2, 7)), "zico"], seeds=2, store=path)
    return ranking, path, report(path, title="Three networks")


def test_the_table_is_the_ranking(made):
    ranking, _, text = made
    page = Page(text)
    (table,) = page.all("table", id="ranking-0")
    header, *rows = page.table(table)
    assert [row[1] for row in rows] == [row.name for row in ranking.rows if row.rank]
    assert [row[0] for row in rows] == ["1", "2", "3"] and {len(row) for row in rows} == {len(header)}
    values = [float(cell["data-value"]) for cell in page.inside(table, "td") if "data-value" in cell]
    for row in ranking.rows[:3]:
        for value in (row.scores["lswag"], row.spreads["lswag"], row.scores["zico"], row.params, row.flops):
            assert any(math.isclose(value, other) for other in values)
    failures = page.table(page.all("table", **{"class": "sortable"})[1])
    assert failures[1][0] == "timm/nosuchnet" and "no model 'nosuchnet'" in failures[1][3]
    assert failures[1][1:3] == ["lswag, zico, flops", "0, 1"] and failures[1][4] == "yes"


def test_profiles_are_those_of_the_results(made):
    ranking, _, text = made
    (data,) = json.loads(Page(text).all("script", id="data")[0]["text"])
    assert set(data["profiles"]) == {row.name for row in ranking.rows[:3]}
    for name, profile in data["profiles"].items():
        assert profile["interval"] == [2, 7]
        layers = ranking.results[name][0].profile.weights
        assert [one["name"] for one in profile["layers"]] == [layer.name for layer in layers]
        assert [one["trainability"] for one in profile["layers"]] == [layer.trainability for layer in layers]
        assert [one["tenth"] for one in profile["layers"]] == [layer.percentile for layer in layers]


def test_it_is_in_one_file_and_asks_for_nothing(made):
    page = Page(made[2])
    assert not page.all("link") and not page.all("img") and not page.all("iframe")
    assert not [e for e in page.elements if "src" in e or e.get("href", "#").startswith(("http", "/"))]
    style = page.all("style")[0]["text"]
    assert "url(" not in style and "@import" not in style
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in policy["content"]


def test_what_it_takes_to_do_it_again_stands_in_it(made):
    page = Page(made[2])
    (table,) = page.all("table", **{"class": "settings"})
    told = dict(page.table(table))
    assert told["batch"] == made[0].settings["batch"] and told["seeds"] == "0, 1" and told["mode"] == "score"
    assert (
        "interval=[2, 7]" in told["proxy lswag interval=[2, 7]"]
        and told["report made with lswag_hooks"] == lh.__version__
    )
    assert page.all("h1")[0]["text"] == "Three networks"


def test_it_can_be_used_without_eyes_or_a_mouse(made):
    page = Page(made[2])
    assert page.all("html")[0]["lang"] == "en" and len(page.all("h1")) == len(page.all("main")) == 1
    assert page.all("a", **{"class": "skip"})[0]["href"] == "#main" == "#" + page.all("main")[0]["id"]
    ids = [e["id"] for e in page.elements if "id" in e]
    assert len(ids) == len(set(ids))
    for table in page.all("table"):
        assert page.inside(table, "caption")
        for head in page.inside(table, "th"):
            assert head.get("scope") in ("col", "row")
    for field in [*page.all("input"), *page.all("select")]:
        assert any(e["tag"] == "label" and e["text"].strip() for e in field["in"])
    for heading in page.inside(page.all("table", id="ranking-0")[0], "th"):
        if heading["scope"] == "col":
            assert page.inside(heading, "button")[0]["text"].strip()
    assert all(e["aria-label"] for e in page.elements if e.get("role") == "img")
    assert all(e["type"] == "button" for e in page.all("button"))
    assert page.all("span", role="status")[0]["aria-live"] == "polite"


def test_names_and_reasons_are_text_and_nothing_else(tmp_path):
    path = fill(tmp_path / "s.db", {NASTY: {proxy("zico"): 1.0}, "plain": {proxy("zico"): 2.0}})
    with Store(path) as store:
        store.fail(FailedAttempt(Key(NASTY, proxy("swap"), 0, "5f1e"), f"it said {NASTY}"))
    page = Page(report(path, title=NASTY))
    assert page.all("h1")[0]["text"] == NASTY and len(page.all("script")) == 3
    assert page.table(page.all("table", id="ranking-0")[0])[2][1] == NASTY
    assert json.loads(page.all("script", id="data")[0]["text"])[0]["names"] == ["plain", NASTY]
    assert f"it said {NASTY}" in page.table(page.all("table", **{"class": "sortable"})[1])[1]


def test_agreement_with_size_and_the_front(tmp_path):
    rng = np.random.default_rng(0)
    sizes = rng.permutation(40) + 1.0
    score = sizes + 10 * rng.normal(size=40)
    scores = {f"m{i}": {proxy("zico"): score[i], proxy("params"): sizes[i]} for i in range(40)}
    page = Page(report(fill(tmp_path / "s.db", scores)))
    agreement = page.table(next(t for t in page.all("table") if "Agreement" in t["text"]))
    value, low, high = map(float, re.findall(r"-?\d\.\d\d", agreement[1][1]))
    assert value == pytest.approx(stats.spearmanr(score, sizes)[0], abs=0.006) and low < value < high
    assert agreement[1][2:] == ["-", "-", "-"]
    front = {
        f"m{i}" for i in range(40)
        if not any(score[j] >= score[i] and sizes[j] <= sizes[i] and j != i for j in range(40))
    }  # fmt: skip
    assert {e["text"] for e in page.all("li")} == front
    ranking = page.table(page.all("table", id="ranking-0")[0])
    place = ranking[0].index("front")
    assert {row[1] for row in ranking[1:] if row[place] == "yes"} == front


def test_the_order_may_be_by_another_proxy_and_lower_may_be_better(tmp_path):
    lower = next(name for name in lh.list_proxies() if not lh.proxies.proxy_class(name).higher_is_better)
    scores = {name: {proxy("zico"): zico, proxy(lower): other} for name, zico, other in (("a", 1, 3), ("b", 2, 9))}
    scores["c"] = {proxy("zico"): math.nan, proxy(lower): 5}
    path = fill(tmp_path / "s.db", scores, seeds=(0, 1))
    for order, names in ((None, ["b", "a", "c"]), (lower, ["a", "c", "b"])):
        page = Page(report(path, order))
        rows = page.table(page.all("table", id="ranking-0")[0])[1:]
        assert [row[1] for row in rows] == names
        assert rows[-1][0] == ("-" if order is None else "3")
    assert "it is flat" in page.table(page.all("table", id="ranking-0")[0])[2]
    with pytest.raises(InputError, match=r"no scores of 'zicco'\. Did you mean 'zico'"):
        report(path, "zicco")


def test_what_cannot_be_compared_stands_apart(tmp_path):
    path = tmp_path / "s.db"
    for batch, count in (("aaaa", 2), ("bbbb", 3)):
        fill(path, {f"m{i}": {proxy("zico"): i} for i in range(count)}, batch=batch)
    page = Page(report(path))
    sections = page.all("section")
    assert [len(page.table(page.inside(one, "table")[0])) - 1 for one in sections] == [3, 2]
    assert "hidden" not in sections[0] and "hidden" in sections[1]
    assert ["bbbb" in page.all("option")[0]["text"], "aaaa" in page.all("option")[1]["text"]] == [True, True]


def test_proxies_of_one_name_are_told_apart_and_sizes_of_a_space_are_counted(tmp_path):
    space = lh.get_space("nasbench201")
    name = space.sample(0)
    by_proxy = {proxy("lswag", interval=None): 1.0, proxy("lswag", interval=[0, 4]): 2.0}
    page = Page(report(fill(tmp_path / "s.db", {name: by_proxy}, space="nasbench201")))
    header, _ = page.table(page.all("table", id="ranking-0")[0])
    assert {"lswag", "lswag interval=[0, 4]"} <= set(header) and header[2] == "lswag"
    values = [cell.get("data-value") for cell in page.inside(page.all("table", id="ranking-0")[0], "td")]
    assert str(float(space.cost(name).params)) in values and str(float(space.cost(name).flops)) in values


def test_the_command(made, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(made[1]), "-o", "page.html", "--title", "Mine", "--profiles", "1"]) == 0
    text = (tmp_path / "page.html").read_text()
    assert "written: page.html" in capsys.readouterr().out and "<h1>Mine</h1>" in text
    assert len(json.loads(Page(text).all("script", id="data")[0]["text"])[0]["profiles"]) == 1
    (tmp_path / "empty.db").touch()
    (tmp_path / "notes.txt").write_text("not a store")
    for arguments, said in (
        (["missing.db"], "there is no store missing.db"),
        (["empty.db"], "holds no scores"),
        (["notes.txt"], "is not a store"),
        ([str(made[1]), "-o", "no/page.html"], "there is no folder no"),
        ([str(made[1]), "-o", "."], "is a folder"),
        ([str(made[1]), "-o", str(made[1])], "is the store itself"),
        ([str(made[1]), "--profiles", "-1"], "profiles=-1"),
    ):
        assert main(["report", *arguments]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "missing.db").exists()


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1440])
def test_in_a_browser(made, tmp_path, width):
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium")
    rng = np.random.default_rng(0)
    scores = {f"network {i:04}": {proxy("zico"): value} for i, value in enumerate(rng.normal(size=2000))}
    many = tmp_path / "many.html"
    many.write_text(
        report(fill(tmp_path / "many.db", scores, params={name: 1000 + i for i, name in enumerate(scores)}))
    )
    few = tmp_path / "few.html"
    few.write_text(made[2])
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme="dark")
        asked, said = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))

        page.goto(many.as_uri())
        first = page.locator("#ranking-0 tbody tr:not([hidden]) th")
        best = sorted(scores, key=lambda name: -scores[name][proxy("zico")])
        assert first.all_inner_texts() == best[:200]  # the others are there, and not laid out
        status = page.get_by_role("status")
        assert status.inner_text() == "2000 of 2000 candidates, of which the first 200 are shown"
        page.get_by_role("button", name="zico").press("Enter")  # by the keyboard
        assert first.first.inner_text() == best[-1]
        page.get_by_role("button", name="candidate").click()
        assert first.first.inner_text() == "network 0000"
        page.get_by_role("searchbox").fill("0042")
        assert first.all_inner_texts() == ["network 0042"]
        assert status.inner_text() == "1 of 2000 candidates"
        page.get_by_role("searchbox").fill("")
        assert first.count() == 200
        page.get_by_role("button", name="Show all 2000").press("Enter")
        assert first.all_inner_texts() == sorted(scores) and status.inner_text() == "2000 of 2000 candidates"
        page.get_by_role("button", name="zico").click()
        assert first.all_inner_texts() == best[::-1]
        page.get_by_role("button", name="Show the first 200").click()
        assert first.all_inner_texts() == best[:-201:-1]
        page.locator(".plot-scores").scroll_into_view_if_needed()  # where it is drawn
        page.wait_for_selector(".plot-scores .scatterlayer .point", state="attached", timeout=60_000)
        assert page.locator(".plot-scores .scatterlayer .point").count() >= 2000

        page.goto(few.as_uri())
        assert not page.get_by_role("button", name="Show").is_visible()
        page.locator(".plot-layers").scroll_into_view_if_needed()
        page.wait_for_selector(".plot-layers .barlayer .point", state="attached", timeout=60_000)
        bars = page.locator(".plot-layers .barlayer .point")
        name = made[0].rows[1].name
        page.get_by_role("combobox", name="candidate").select_option(name)
        layers = made[0].results[name][0].profile.weights
        page.wait_for_function(f"document.querySelectorAll('.plot-layers .barlayer .point').length == {len(layers)}")
        assert bars.count() == len(layers) and page.locator(".layer-table tbody tr").count() == len(layers)
        assert "tenths 2 to 7" in page.locator(".interval").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        shown = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(shown) == "rgb(22, 24, 28)"
        page.get_by_role("button", name="Dark").click()
        assert page.evaluate(shown) == "rgb(255, 255, 255)"
        page.get_by_role("button", name="Dark").click()
        ink = "getComputedStyle(document.querySelector('.plot-scores .xtick text')).fill"
        on_screen = page.evaluate(ink)
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        assert page.evaluate(shown) == "rgb(255, 255, 255)" and not page.get_by_role("searchbox").is_visible()
        assert page.evaluate(ink) == "rgb(27, 27, 31)" != on_screen  # dark on white, and dark is on the screen
        page.emulate_media(media="screen")
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.evaluate(shown) == "rgb(22, 24, 28)" and page.evaluate(ink) == on_screen
        assert said == [] and {url.split(":")[0] for url in asked} <= {"file", "data", "blob"}
        browser.close()
