"""A report's picture and table for the loggers of a training run: TensorBoard, W&B, MLflow."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lswag_hooks.errors import InputError
from lswag_hooks.report.table import markdown, profile_cells
from lswag_hooks.results import ScoreResult
from lswag_hooks.standings import Ranking

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def log_report(logger: Any, found: ScoreResult | Ranking, step: int = 0, prefix: str = "lswag") -> bool:
    """Send the layers of a score, or the standings of a ranking, to a Lightning logger as a picture and a table.

    They are those of ``profile.plot()`` or ``ranking.plot()`` and of the command line. TensorBoard shows them under
    Images and Text, W&B as an image and a table, MLflow among the run's artifacts. Whatever goes wrong is a warning:
    a report never stops a training. Without matplotlib there is the table alone.

    Args:
        logger: TensorBoardLogger, WandbLogger or MLFlowLogger, of ``lightning.pytorch`` or ``pytorch_lightning``; of
            others nothing is asked.
        found: what to show.
        step: of the training.
        prefix: they are called ``prefix/picture`` and ``prefix/table``.

    Returns:
        Whether the logger took at least the table.

    Example:
        >>> from lightning.pytorch.loggers import CSVLogger
        >>> from lswag_hooks.standings import Row
        >>> log_report(CSVLogger("logs"), Ranking([Row("small", {"zico": 1.0})], {"zico": True}))
        False
    """
    names = {cls.__name__ for cls in type(logger).__mro__}
    send = next((send for name, send in _SENDERS.items() if name in names), None)
    if send is None:
        return False
    try:
        table = found.cells() if isinstance(found, Ranking) else profile_cells(found.profile)
        send(logger, _picture(found), *table, step, prefix)
    except Exception as error:  # a client, its network or its disk may fail in any way
        warnings.warn(f"{type(logger).__name__} did not take the report of {prefix}: {error!r}.", stacklevel=2)
        return False
    return True


def _picture(found: ScoreResult | Ranking) -> Figure | None:
    try:
        return found.plot() if isinstance(found, Ranking) else found.profile.plot(_interval(found))
    except InputError as error:  # no matplotlib
        warnings.warn(f"the report goes without its picture: {error}", stacklevel=3)
        return None


def _interval(result: ScoreResult) -> Any:
    """The layers that L-SWAG counted, where it did not count all."""
    return next((one.get("interval") for one in result.settings["proxies"].values() if one["proxy"] == "lswag"), None)


def _tensorboard(
    logger: Any, picture: Figure | None, headers: list[str], rows: list[list[str]], step: int, prefix: str
) -> None:
    writer = logger.experiment
    writer.add_text(f"{prefix}/table", markdown(headers, rows), step)
    if picture is not None:
        writer.add_figure(f"{prefix}/picture", picture, step)


def _wandb(
    logger: Any, picture: Figure | None, headers: list[str], rows: list[list[str]], step: int, prefix: str
) -> None:
    logger.log_table(f"{prefix}/table", columns=headers, data=rows, step=step)
    if picture is not None:
        logger.log_image(f"{prefix}/picture", [picture], step=step)


def _mlflow(
    logger: Any, picture: Figure | None, headers: list[str], rows: list[list[str]], step: int, prefix: str
) -> None:
    client, run = logger.experiment, logger.run_id
    columns = {header: [row[place] for row in rows] for place, header in enumerate(headers)}
    client.log_table(run, columns, f"{prefix}/table_{step}.json")  # it appends to a file that is there
    if picture is not None:
        client.log_figure(run, picture, f"{prefix}/picture_{step}.png")


_SENDERS: dict[str, Callable[..., None]] = {
    "TensorBoardLogger": _tensorboard,
    "WandbLogger": _wandb,
    "MLFlowLogger": _mlflow,
}
