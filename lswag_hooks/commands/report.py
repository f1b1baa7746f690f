"""``lswag report``: a store as one page of HTML."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from lswag_hooks.errors import InputError
from lswag_hooks.report.contents import PROFILES
from lswag_hooks.report.html import report


def add_report(parser: ArgumentParser) -> None:
    """Add the options of ``lswag report``."""
    add = parser.add_argument
    add("store", metavar="STORE", help="a file of rank, search or correlate --store")
    add("-o", "--out", type=str, default="report.html", metavar="FILE", help="where to write; by default report.html")
    add("--order", type=str, metavar="PROXY", help="the proxy that decides; by default lswag, or the first")
    add("--title", type=str, metavar="TEXT", help="of the page; by default the name of the store")
    add("--profiles", type=int, default=PROFILES, metavar="N", help="of how many of the best to show the layers")


def run_report(options: Namespace) -> int:
    """Write the page.

    Returns:
        The exit status, 0.
    """
    out = Path(options.out).expanduser()
    if out.is_dir():
        raise InputError(f"{out} is a folder: give a file to write.")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out}: there is no folder {out.parent}; make it first.")
    if out.exists() and out.samefile(options.store):
        raise InputError(f"{out} is the store itself: give another file to write.")
    page = report(options.store, options.order, options.title, options.profiles)
    out.write_text(page, encoding="utf-8")
    print(f"written: {out} ({len(page.encode()) / 1e6:.1f} MB)")
    return 0
