from pathlib import Path

import yaml

import lswag_hooks as lh

ROOT = Path(__file__).parent.parent


def test_the_citation_is_of_this_version_and_names_the_paper():
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(said)  # what the format requires
    assert str(said["version"]).split(".")[:2] == lh.__version__.split(".")[:2] and said["license"] == "Apache-2.0"
    paper = said["references"][0]
    assert paper["identifiers"][0]["value"] == "arXiv:2505.07300"
    assert paper["title"].casefold() in " ".join((ROOT / "README.md").read_text("utf-8").split()).casefold()
