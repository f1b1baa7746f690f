"""How Sphinx builds these pages: ``sphinx-build -W -b html docs docs/_build/html``."""

import re
import sys
from pathlib import Path
from typing import Any

import lswag_hooks

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "lswag_hooks"
author = "the lswag_hooks maintainers"
project_copyright = author
release = version = lswag_hooks.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "pictures",  # this and the next two: docs/_ext
    "proxy_table",
    "reference_pages",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes are fields of the class, not a second description beside autodoc's

html_theme = "furo"
html_title = f"lswag_hooks {release}"
html_show_sphinx = False


def escape_stars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep the star of a shape such as (samples, *weights), which would begin an emphasis that never ends."""
    lines[:] = [re.sub(r"(?<=[(, ])\*(?=\w[^*]*$)", r"\\*", line) for line in lines]


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", escape_stars, priority=900)  # after napoleon
