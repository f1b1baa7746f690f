"""Search a space with L-SWAG or LIBRA, without training: ``python -m recipes.autoformer.search --config FILE``."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import auto_cli

from lswag_hooks import Batch, Libra
from lswag_hooks.rng import seeded
from lswag_hooks.search import Evolution, SearchResult
from lswag_hooks.search import search as search_space
from lswag_hooks.spaces.autoformer import PATCH
from recipes.autoformer.choices import Choices, resolve_space
from recipes.common import check_out_file, finish, keep_search
from recipes.data import ImageData


def search(
    data: ImageData,
    out: str,
    space: str | Choices = "autoformer_small",
    image_size: int = 224,
    patch_size: int = PATCH,
    proxies: str = "lswag",
    libra: str | None = None,
    samples: int = 64,
    evaluations: int = 1000,
    min_params: int | None = None,
    max_params: int | None = 24_000_000,
    evolution: Evolution = Evolution(),  # noqa: B008 - frozen
    seed: int = 0,
    store: str | None = None,
    workers: int = 1,
) -> SearchResult:
    """Evolve the best architecture within limits on its size, and write the best as YAML.

    Args:
        data: whose training images the networks are scored on.
        out: the YAML file; retrain and finetune read it.
        space: name of a space of AutoFormer, or choices of one's own.
        image_size: side of the images, as the transforms of the data make them.
        patch_size: side of a patch.
        proxies: one, or several with commas between, merged by rank.
        libra: a fitted LIBRA instead: a file that ``lswag libra fit`` wrote, or the name of one that comes along.
        samples: images to score on.
        evaluations: how many architectures are scored.
        min_params: fewest parameters.
        max_params: most parameters.
        evolution: its settings, by default AutoFormer's.
        seed: of the search and of the weights.
        store: a file of finished scores; the same command goes on where it was stopped.
        workers: processes.

    Raises:
        InputError: an argument makes no sense, or the data is not there.
    """
    check_out_file(out)
    scorer = proxies if libra is None else Libra.load(libra)
    with seeded(seed):  # augmentations draw from the global random states
        batch = Batch.from_datamodule(data, samples=samples)
    found = search_space(
        resolve_space(space, patch_size),
        batch,
        scorer,
        algorithm=evolution,
        evaluations=evaluations,
        seed=seed,
        min_params=min_params,
        max_params=max_params,
        num_classes=data.num_classes,
        image_size=image_size,
        store=store,
        workers=workers,
    )
    return keep_search(found, out)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    auto_cli(search, as_positional=False, args=None if args is None else list(args))
    return 0


if __name__ == "__main__":
    finish(main)
