"""The pages tell the truth: every example in them runs, and they build without a warning.

In each page, from top to bottom and with one set of names:

- a fence of ``python`` is run; if it has prompts (``>>>``) what it prints is compared with what stands there;
- a fenced ``code-block`` with a ``:caption:`` is written to a file of that name in the working folder;
- in a fence of ``console``, lines that begin with ``$ lswag`` or ``$ python`` are run, and what they print is compared
  with what stands below them, if anything does (not those of the README, whose commands install things and rank large
  models).
"""

import contextlib
import doctest
import io
import re
import runpy
import shlex
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

from lswag_hooks.cli import main
from lswag_hooks.hooks import activations
from lswag_hooks.proxies import list_proxies, registry

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FENCE = re.compile(
    r"^(?P<indent> *)(?P<marks>`{3,}|:{3,})(?P<info>[^\n`]*)\n(?P<body>.*?)^ *(?P=marks) *$", re.M | re.S
)


NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?[kMGT]?(?!\w|\.\d)")
TOLERANCE = 0.02  # what another processor may change: rounding, and codes of outputs that are almost zero


class Tolerant(doctest.OutputChecker):
    """Takes numbers that are nearly those on the page: fractions within 2 %, and whole numbers from a thousand on."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        if super().check_output(want, got, optionflags):
            return True
        pattern, numbers, end = "", [], 0
        for match in NUMBER.finditer(want):
            pattern += _literal(want[end : match.start()]) + f"({NUMBER.pattern})"
            numbers.append(match[0])
            end = match.end()
        found = re.fullmatch(pattern + _literal(want[end:]), got, re.S)
        return bool(found) and all(_near(*pair) for pair in zip(numbers, found.groups(), strict=True))


def _literal(text: str) -> str:
    pieces = [re.sub(r"(\\?\s)+", r"\\s+", re.escape(piece)) for piece in text.split("...")]
    return ".*?".join(pieces)


def _near(want: str, got: str) -> bool:
    if want[-1:].isalpha() and want[-1] != got[-1:]:  # k, M, G or T
        return False
    wanted, found = (float(number.rstrip("kMGT").replace(",", "")) for number in (want, got))
    whole = want.lstrip("-").replace(",", "").isdigit() and abs(wanted) < 1000
    return wanted == found if whole else abs(wanted - found) <= TOLERANCE * abs(wanted)


class Block(NamedTuple):
    language: str
    caption: str
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    """Fences of a page, with the line on which each one's text begins."""
    found = []
    for match in FENCE.finditer(page):
        text, line = textwrap.dedent(match["body"]), page[: match.start("body")].count("\n") + 1
        language, caption = match["info"].strip(), ""
        directive = re.fullmatch(r"\{code-block\} *(\w+)", language)
        if directive:
            language = directive[1]
            options = re.match(r"(?: *:[^\n]*\n)*\n*", text)[0]
            text, line = text[len(options) :], line + options.count("\n")
            named = re.search(r"^ *:caption: *(\S+)", options, re.M)
            caption = named[1] if named else ""
        found.append(Block(language, caption, text, line))
    return found


def run_python(block: Block, page: Path, names: dict) -> None:
    if ">>>" not in block.text:
        # blank lines in front, so that an error names the line of the page
        exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)
        return
    test = doctest.DocTestParser().get_doctest(block.text, names, page.name, str(page), block.line - 1)
    test.globs = names  # not a copy: what is defined here is known further down
    report: list[str] = []
    runner = doctest.DocTestRunner(checker=Tolerant(), optionflags=FLAGS, verbose=False)
    assert not runner.run(test, out=report.append, clear_globs=False).failed, "".join(report)


def run_console(block: Block, monkeypatch) -> None:
    text = block.text.replace("\\\n", " ")
    for part in re.split(r"^(?=\$ )", text, flags=re.M):
        line, _, want = part.partition("\n")
        if not line.startswith(("$ lswag ", "$ python ")):
            continue
        command, *arguments = shlex.split(line.removeprefix("$ "))
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            if command == "lswag":
                assert main(arguments) == 0, line
            else:
                monkeypatch.setattr(sys, "argv", arguments)
                runpy.run_path(arguments[0], run_name="__main__")
        if want.strip():
            got = printed.getvalue()
            assert Tolerant().check_output(want, got, FLAGS), f"{line}\nExpected:\n{want}\nGot:\n{got}"


@pytest.fixture
def own_tables(monkeypatch):
    """Examples register things of their own, which other tests must not meet."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    monkeypatch.setattr(activations, "_FUNCTIONS", dict(activations._FUNCTIONS))
    monkeypatch.setattr(activations, "_CLASSES", dict(activations._CLASSES))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples(page, own_tables, monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    names = {"__name__": "__page__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.caption:
            Path(block.caption).write_text(block.text, encoding="utf-8")
        elif block.language in ("python", "pycon"):
            run_python(block, page, names)
        elif block.language == "console" and page.parent == DOCS:
            run_console(block, monkeypatch)


def test_what_counts_as_an_example():
    page = textwrap.dedent(
        """
        ```python
        x = 1
        ```

        - in a list:
          ```python
          >>> x
          1
          ```

        ```{code-block} yaml
        :caption: config.yaml

        a: 1
        ```

        ```text
        none
        ```
        """
    )
    found = blocks(page)
    assert [(block.language, block.caption) for block in found] == [
        ("python", ""),
        ("python", ""),
        ("yaml", "config.yaml"),
        ("text", ""),
    ]
    assert found[1].text == ">>> x\n1\n" and found[2].text == "a: 1\n" and found[0].line == 3


@pytest.mark.parametrize(
    ("want", "got", "same"),
    [
        ("a  43060 1.5e-02\n", "a 43061   1.51e-02\n", True),
        ("wide  162k  1.9%\n", "wide  163k  1.9%\n", True),
        ("x 12 ...\n", "x 12 0.3\n", True),
        ("a 43060\n", "a 53060\n", False),
        ("26 layers\n", "27 layers\n", False),
        ("a 1.5\n", "b 1.5\n", False),
        ("weights 100.0% of 1,528\n", "weights 90.0% of 1,528\n", False),
    ],
)
def test_numbers_may_differ_by_rounding_alone(want, got, same):
    assert Tolerant().check_output(want, got, FLAGS) is same


def test_a_wrong_example_fails():
    with pytest.raises(AssertionError, match="Expected"):
        run_python(Block("python", "", ">>> 1 + 1\n3\n", 1), Path("page.md"), {})
    with pytest.raises(AssertionError, match="Expected"):
        run_console(Block("console", "", "$ lswag spaces\nno space is known\n", 1), None)
    with pytest.raises(ZeroDivisionError):
        run_python(Block("python", "", "1 / 0\n", 1), Path("page.md"), {})


@pytest.mark.filterwarnings("ignore")  # Sphinx and its extensions among themselves; what the pages cause is an error
def test_pages_build_without_a_warning(tmp_path, monkeypatch):
    application = pytest.importorskip("sphinx.application")
    for module in ("furo", "myst_parser"):
        pytest.importorskip(module)
    monkeypatch.setattr(sys, "path", list(sys.path))  # conf.py adds its own folder
    built = tmp_path / "html"
    app = application.Sphinx(
        DOCS, DOCS, built, tmp_path / "trees", "html", warningiserror=True, status=None, freshenv=True
    )
    app.build()
    assert app.statuscode == 0
    made = {"search", "genindex", "py-modindex"}  # by Sphinx itself, in place of any page of that name
    assert not made & app.env.found_docs
    listed = (built / "proxies.html").read_text(encoding="utf-8")
    assert all(f">{name}</span>" in listed or f">{name}<" in listed for name in list_proxies())
