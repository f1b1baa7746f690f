"""How Sphinx builds these pages: ``sphinx-build -W -b html docs docs/_build/html``."""

import sys
from pathlib import Path

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
    "proxy_table",  # docs/_ext
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
