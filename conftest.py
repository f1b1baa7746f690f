"""For whatever is tested: what an extra that is not there leaves out, and what must not be done twice at once."""

from importlib.util import find_spec

import pytest

collect_ignore = [] if find_spec("mmengine") else ["recipes/burgerformer_coco/randomness.py"]


def pytest_configure(config: pytest.Config) -> None:
    """Import yapf, on which mmengine stands, before there are several processes.

    Where it was never imported it stores its grammar, and shows the file before it is written: of two processes that
    import it first at the same time, one reads an empty file and fails.
    """
    if not hasattr(config, "workerinput") and find_spec("yapf"):
        import yapf  # noqa: F401
