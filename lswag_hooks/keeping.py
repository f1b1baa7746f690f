"""Results of a ranking in a store: what a candidate is called there, what is there already, and what is put there."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from lswag_hooks.attempts import Outcome, Terms, free
from lswag_hooks.candidates import Candidate
from lswag_hooks.errors import InputError
from lswag_hooks.proxies import Proxy
from lswag_hooks.results import ScoreResult
from lswag_hooks.store import FailedAttempt, Key, Record, Store, canonical

_OWN = frozenset(vars(nn.Module()))  # what torch keeps of a module: hooks, flags
_PLAIN = (bool, int, float, complex, str, type(None))  # values of options that read the same in every process


class Keeper:
    """Finds and keeps the results of a ranking.

    A candidate given as text is kept under that text. One given as a module or a factory is kept under its name and a
    :func:`fingerprint` of what it builds: the same name for another network is another candidate.

    Args:
        store: the file.
        terms: on what the scores depend.

    Raises:
        InputError: the loss has no name that would be the same tomorrow.
    """

    def __init__(self, store: Store, terms: Terms) -> None:
        self.store, self.terms = store, terms
        self.conditions = canonical(conditions(terms))
        self.proxies = {proxy.key: _text(proxy) for proxy in terms.proxies}
        self.names: dict[tuple[str, int], str] = {}  # what the store calls a candidate with a seed

    def known(self, candidate: Candidate, seeds: Sequence[int]) -> Outcome:
        """What the store has of a candidate: results, and failures that another attempt would repeat."""
        outcome = Outcome()
        settled = self._settled()
        for seed, name in self._named(candidate, seeds):
            self.names[candidate.name, seed] = name
            key = self._key(name, seed)
            found = next(filter(None, map(self._asked, self.store.details(key).values())), None)
            if found is not None:
                outcome.found[seed] = found
            elif key in settled:
                outcome.failures[seed] = settled[key]
        return outcome

    def keep(self, candidate: Candidate, seed: int, outcome: Outcome) -> None:
        """Keep what became of a candidate with a seed; what broke down is kept as a failure, which is tried again."""
        name = self.names.get((candidate.name, seed))
        if name is None and isinstance(candidate.spec, str):
            name = candidate.spec
        if name is None:
            return  # it could not be built
        result, whole = outcome.found.get(seed), self._key(name, seed)
        if result is None:
            self.store.fail(FailedAttempt(whole, outcome.failures[seed], seed in outcome.settled))
            return
        counted = result.scores.get("flops", math.nan)
        params, flops = result.parameters, None if math.isnan(counted) else int(counted)
        self.store.put(
            [
                Record(
                    self._key(name, seed, text),
                    result.scores[key],
                    result.reasons.get(key),
                    result.seconds,
                    params=params,
                    flops=flops,
                )
                for key, text in self.proxies.items()
                if key not in result.broken
            ],
            # one that broke down in part is scored again another time
            [] if result.broken else [(whole, result.to_text())],
        )

    def _key(self, name: str, seed: int, proxy: str | None = None) -> Key:
        every = canonical({"proxies": sorted(self.proxies.values())}) if proxy is None else proxy
        return Key(name, every, seed, self.terms.batch.fingerprint, "", self.conditions)

    def _settled(self) -> dict[Key, str]:
        return {failed.key: failed.reason for failed in self.store.failures() if failed.decided}

    def _asked(self, text: str) -> ScoreResult | None:
        """A kept result, if it has all that is asked for: those scores alone, under the labels of this ranking."""
        result = ScoreResult.from_text(text)
        stored = {canonical(settings): label for label, settings in result.settings["proxies"].items()}
        if not {*self.proxies.values()} <= {*stored}:
            return None
        labels = {stored[text]: label for label, text in self.proxies.items()}
        result.scores = {label: result.scores[stored[text]] for label, text in self.proxies.items()}
        result.reasons = {labels[key]: reason for key, reason in result.reasons.items() if key in labels}
        for row in result.profile.weights:
            row.terms = {labels[key]: term for key, term in row.terms.items() if key in labels}
        result.settings["proxies"] = {
            proxy.key: {"proxy": proxy.name, **proxy.settings()} for proxy in self.terms.proxies
        }
        return result

    def _named(self, candidate: Candidate, seeds: Sequence[int]) -> Iterator[tuple[int, str]]:
        spec = candidate.spec
        for seed in seeds[:1] if isinstance(spec, nn.Module) else seeds:
            if isinstance(spec, str):
                yield seed, spec
                continue
            try:
                model = self.terms.build(spec, seed)
                name = f"{candidate.name} ({fingerprint(model)})"
            except Exception:
                continue
            built = weakref.ref(model)
            del model
            free(built, spec)
            yield seed, name


def fingerprint(model: nn.Module) -> str:
    """Sixteen hexadecimal digits of a network: the types, options and ``forward`` of its modules, and all its values.

    What functions that a ``forward`` calls do is not seen: after a change there give another name, or another store.

    Example:
        >>> first, second, third = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 3)
        >>> second.load_state_dict(first.state_dict())
        <All keys matched successfully>
        >>> fingerprint(first) == fingerprint(second), fingerprint(first) == fingerprint(third)
        (True, False)
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, module in model.named_modules():
        kind = type(module)
        code = getattr(kind.forward, "__code__", None)
        said = (code.co_code, code.co_names, repr(_constants(code))) if code is not None else ""
        options = {key: value for key, value in vars(module).items() if key not in _OWN and isinstance(value, _PLAIN)}
        named = f"{name} {kind.__module__}.{kind.__qualname__} {module.extra_repr()} {sorted(options.items())}"
        digest.update(f"{named} {said};".encode())
    for kept in (model.named_parameters(), model.named_buffers()):
        for name, tensor in kept:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.requires_grad};".encode())
            if tensor.numel():
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def conditions(terms: Terms) -> dict[str, Any]:
    """What a score depends on beside candidate, proxies, seed and batch.

    Raises:
        InputError: the loss has no name that would be the same tomorrow.
    """
    return {
        "mode": terms.mode,
        "init": terms.init,
        "loss": loss_name(terms.loss),
        "reduction": terms.reduction,
        "num_classes": terms.num_classes,
        "image_size": terms.image_size,
        "layout": terms.batch.layout,
        "device": terms.batch.device.type,
    }


def loss_name(loss: Any) -> str | None:
    """A name for a loss that is the same in every process.

    Raises:
        InputError: there is none.

    Example:
        >>> loss_name(nn.functional.mse_loss), loss_name(nn.CrossEntropyLoss(label_smoothing=0.1))
        ('torch.nn.functional.mse_loss', 'torch.nn.modules.loss.CrossEntropyLoss {...label_smoothing...
    """
    if loss is None or isinstance(loss, str):
        return loss
    if isinstance(loss, nn.Module) and type(loss).__module__.startswith("torch.nn.") and not any(loss.state_dict()):
        options = {name: value for name, value in vars(loss).items() if not name.startswith("_")}
        try:
            return f"{type(loss).__module__}.{type(loss).__qualname__} {canonical(options)}"
        except InputError:
            pass
    if dataclasses.is_dataclass(loss) and getattr(loss, "is_objective", False):
        return f"{type(loss).__module__}.{type(loss).__qualname__} {canonical(dataclasses.asdict(loss))}"  # type: ignore[arg-type]
    name = getattr(loss, "__qualname__", None)
    if isinstance(name, str) and "<" not in name and not isinstance(loss, nn.Module):
        return f"{loss.__module__}.{name}"
    raise InputError(
        f"loss={loss!r} has no name by which a store could know it again: give a function of a module (no lambda, no "
        "method), or a loss of torch.nn without weights; or leave store out."
    )


def _text(proxy: Proxy) -> str:
    return canonical({"proxy": proxy.name, **proxy.settings()})


def _constants(code: Any) -> tuple[Any, ...]:
    """Constants of a function; those of functions in it too, whose own text would name an address in memory."""
    nested = (one for one in code.co_consts if hasattr(one, "co_code"))
    plain = tuple(one for one in code.co_consts if not hasattr(one, "co_code"))
    return (*plain, *((one.co_code, one.co_names, _constants(one)) for one in nested))
