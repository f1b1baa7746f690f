"""Search a backbone on COCO pictures, without training: ``python -m recipes.burgerformer_coco.search --help``."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import auto_cli

from lswag_hooks import Libra
from lswag_hooks.detection.coco import SCALE, coco_batch, load_coco
from lswag_hooks.search import Evolution, SearchResult
from lswag_hooks.search import search as search_space
from recipes.burgerformer_coco.space import LIMIT, BurgerBackbones
from recipes.command import check_out_file, finish, keep_search

PUBLISHED = Evolution(population=150, mutations=75, crossovers=75, parents=75)  # BurgerFormer's, but for its start


def search(
    data: str,
    out: str,
    proxies: str = "lswag",
    libra: str | None = None,
    samples: int = 4,
    scale: tuple[int, int] = SCALE,
    evaluations: int = 3000,
    min_params: int | None = None,
    max_params: int | None = LIMIT,
    evolution: Evolution = PUBLISHED,
    init: str | None = None,
    seed: int = 0,
    store: str | None = None,
    workers: int = 1,
) -> SearchResult:
    """Evolve the best backbone within a limit on its parameters, and write the best as YAML.

    Args:
        data: COCO's folder; training pictures with their boxes are what architectures are scored on.
        out: the YAML file; the other steps read it.
        proxies: one, or several with commas between, merged by rank.
        libra: a fitted LIBRA instead: a file that ``lswag libra fit`` wrote, or the name of one that comes along. Its
            proxies must all be had without class scores.
        samples: pictures to score on, at once where there is BatchNorm: ``cost`` says what they take.
        scale: longest and shortest side of the pictures at most.
        evaluations: how many architectures are scored.
        min_params: fewest parameters, of the classifier for ImageNet.
        max_params: most parameters.
        evolution: its settings, by default those of BurgerFormer's own search (which begins with 500 at random).
        init: wake: score copies whose zero gains and heads are awake.
        seed: of pictures, search and weights.
        store: a file of finished scores; the same command goes on where it was stopped.
        workers: processes.

    Raises:
        InputError: an argument makes no sense, the data is not there or broken, or nothing keeps the limits.
    """
    check_out_file(out)
    scorer = proxies if libra is None else Libra.load(libra)
    batch = coco_batch(load_coco(data), samples, (scale[0], scale[1]), seed, masks=False)
    found = search_space(
        BurgerBackbones(),
        batch,
        scorer,
        algorithm=evolution,
        evaluations=evaluations,
        seed=seed,
        min_params=min_params,
        max_params=max_params,
        image_size=(3, min(scale), max(scale)),
        init=init,
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
