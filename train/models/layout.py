"""Where in a weights file the tensors of a network lie, and under which prefix.

Training code keeps the same tensors under many names: a table in the checkpoint (`state_dict`,
`model_state_dict`, `state_dict_backbone` …) and prefixes of the modules that wrapped the network
(`module.`, `_orig_mod.`, `model.`, `net.` …), one inside the other. They are not taken off by
rule: `model.` is EdgeFace's own. The place is where most names are the network's.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Attributes under which wrappers and training code keep a network. Any other prefix is believed
# only where it holds half of a network: single names such as `bn.weight` are everybody's.
WRAPPERS = {
    *("module", "model", "net", "network", "backbone", "encoder", "trunk", "student", "head"),
    *("_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
}
# Tables in the order in which one is taken when several hold the network.
TABLES = ("", "state_dict", "model", "model_state_dict", "state_dict_backbone", "backbone", "net")
# A mean over training steps (EMA, SWA): other weights than those that were trained.
_MEAN = re.compile(r"(^|[._])(ema|swa|averaged|shadow|teacher)([._]|$)")
# Wrappers of parts of a network, which put their name into the middle.
_INSIDE = re.compile(r"(?<=\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Counters: they mean nothing for the weights, and old or new files lack or add them.
COUNTERS = ("num_batches_tracked", "n_averaged")
_DEPTH = 4  # of tables in tables
_NESTED = 8  # wrappers in wrappers


@dataclass(frozen=True)
class Table:
    """Named tensors of a file, as they lie there.

    Attributes:
        place: names of the tables that lead there, joined by dots; "" for the file itself.
        metadata: what the file says of itself (safetensors).
    """

    place: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class State:
    """The tensors of one network out of a file.

    Attributes:
        tensors: by the names that the network has; what is not the network's keeps its own,
            without the wrappers that it shared.
        belonging: how many of them the network has.
        place: of the table that they were taken from, see `Table`.
        prefix: what was taken off their names, e.g. "module.model.".
        others: further places and prefixes where the file holds the network with other numbers.
    """

    tensors: dict[str, Tensor]
    belonging: int
    place: str
    prefix: str
    others: tuple[str, ...]
    metadata: Mapping[str, str]


def tables(payload: Any, metadata: Mapping[str, str] | None = None) -> list[Table]:
    """Every table of named tensors in a file's content, outer ones first."""
    found: list[Table] = []
    waiting: deque[tuple[str, Any]] = deque([("", payload)])
    seen: set[int] = set()
    while waiting:
        place, value = waiting.popleft()
        if not isinstance(value, dict) or id(value) in seen or place.count(".") >= _DEPTH:
            continue
        seen.add(id(value))
        named = {k: v.detach() for k, v in value.items() if _named(k) and isinstance(v, Tensor)}
        if named:
            found.append(Table(place, named, metadata or {}))
        for key, inner in value.items():
            if _named(key):
                waiting.append((f"{place}.{key}".removeprefix("."), inner))
    return found


def _named(key: object) -> bool:
    return isinstance(key, str)


def unwrapped(table: Table) -> dict[str, Tensor]:
    """The tensors of a table without the wrappers that most names have."""
    prefix = ""
    while True:
        starts = (f"{prefix}{wrapper}." for wrapper in WRAPPERS - {"head"})
        for start in starts:
            if 2 * sum(name.startswith(start) for name in table.tensors) > len(table.tensors):
                prefix = start
                break
        else:
            return _strip(table.tensors, prefix)


def needed(module: nn.Module) -> set[str]:
    """Names that weights for this network must have: all, or what a CAL model starts from."""
    chosen = getattr(module, "needed_names", None)
    names = module.state_dict() if chosen is None else chosen()
    return {name for name in names if not name.endswith(COUNTERS)}


def find(there: list[Table], module: nn.Module) -> State | None:
    """The tensors of a network, wherever they lie; None when none belongs to it.

    Args:
        module: the network; one with a method `adapt_state` takes foreign names too.
    """
    candidates = sorted(_candidates(there, module), key=lambda one: one[0])
    if not candidates:
        return None
    rank, table, prefix = candidates[0]
    state = _strip(table.tensors, prefix)
    others = tuple(
        f"{other.place}:{name}".strip(":")
        for place, other, name in candidates[1:]
        if place[0] == rank[0] and not _equal(state, _strip(other.tensors, name), table, prefix)
    )
    return State(state, -rank[0], table.place, prefix, others, table.metadata)


Rank = tuple[int, bool, int, int, int, int]


def _candidates(there: list[Table], module: nn.Module) -> Iterator[tuple[Rank, Table, str]]:
    """Places and prefixes that hold tensors of the network; the least rank is the best."""
    own = {name for name in module.state_dict() if not name.endswith(COUNTERS)}
    for number, table in enumerate(there):
        variants = [table]
        if any(_INSIDE.search(name) for name in table.tensors):
            plain = {_INSIDE.sub("", name): value for name, value in table.tensors.items()}
            variants.append(Table(table.place, plain, table.metadata))
        for cleaned, variant in enumerate(variants):
            for prefix, count in _prefixes(variant.tensors, module, own).items():
                name = f"{table.place}.{prefix}"
                order = TABLES.index(table.place) if table.place in TABLES else len(TABLES)
                mean = _MEAN.search(name) is not None
                rank = (-count, mean, order, number, cleaned, len(prefix))
                yield rank, variant, prefix


def _prefixes(names: Mapping[str, Any], module: nn.Module, own: set[str]) -> dict[str, int]:
    """Prefix → names that are the network's without it."""
    # Every end of every name that begins at a dot, each standing for itself.
    ends = {end: end for name in names for _, end in _cuts(name)}
    adapt = getattr(module, "adapt_state", None)
    renamed: Mapping[str, str] = ends if adapt is None else adapt(ends)
    fitting = {end for new, end in renamed.items() if new in own}
    counts = Counter(start for name in names for start, end in _cuts(name) if end in fitting)
    half = len(needed(module)) / 2
    return {
        prefix: count
        for prefix, count in counts.items()
        if all(part in WRAPPERS for part in prefix.split(".")[:-1]) or count >= half
    }


def _cuts(name: str) -> Iterator[tuple[str, str]]:
    yield "", name
    at = name.find(".")
    for _ in range(_NESTED):
        if at < 0:
            return
        yield name[: at + 1], name[at + 1 :]
        at = name.find(".", at + 1)


def _strip(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Without the prefix; others lose the wrappers that they share with it."""
    parts = prefix.split(".")[:-1]
    starts = [".".join([*parts[:count], ""]) for count in range(len(parts), -1, -1)]
    starts[-1] = ""
    found: dict[str, Tensor] = {}
    for start in starts:  # those with the whole prefix first: nothing takes their names
        for name, value in tensors.items():
            if next(one for one in starts if name.startswith(one)) == start:
                found.setdefault(name.removeprefix(start), value)
    return found


def _equal(first: dict[str, Tensor], second: dict[str, Tensor], table: Table, prefix: str) -> bool:
    """Whether two states are the same numbers."""
    return all(
        name in second and (value is second[name] or torch.equal(value, second[name]))
        for name, value in first.items()
        if prefix + name in table.tensors
    )
