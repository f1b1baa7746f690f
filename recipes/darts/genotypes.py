"""A genotype as a user gives it."""

from __future__ import annotations

from pathlib import Path

import yaml

from lswag_hooks.errors import InputError
from lswag_hooks.spaces.darts import DARTS, GENOTYPES

FILES = (".yaml", ".yml")


def read_genotype(given: str) -> str:
    """The genotype's string: of a string, a published one's name, or the YAML file of a search, whose best is taken.

    Raises:
        InputError: it is none of these, or does not parse.

    Example:
        >>> read_genotype("DARTS_V2")[:21]
        'normal sep_conv_3x3~0'
    """
    if given in GENOTYPES:
        return GENOTYPES[given]
    if not given.endswith(FILES):
        if given.split(" ")[0] != "normal":
            raise InputError(
                f"model.genotype={given!r}: give a string 'normal op~i ... reduce op~i ...', a YAML file that search "
                f"wrote, or one of {', '.join(GENOTYPES)}."
            )
        return str(DARTS().parse(given))
    path = Path(given).expanduser()
    if not path.is_file():
        raise InputError(f"model.genotype={given}: there is no such file; python -m recipes.darts.search writes one.")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))["architectures"][0]["architecture"]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"model.genotype={given} is no file that search wrote ({' '.join(str(error).split())})."
        ) from None
    return str(DARTS().parse(str(found)))
