"""A row of the suite's table: the figures of one set by one protocol.

`set`, `benchmark`, `title`, `protocol`, `place`, `run`, `key`; `listed` and `used` (pairs, images
or templates), `left_out`, `notes`, `complete` (all that is listed was used, by the published list);
`figures` and `intervals` by name, in 0…1; or `error`, why there are none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_SAME_NAMES = {"auc": "AUC", "eer": "EER", "accuracy": "accuracy"}


def of_pairs(about: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """Of the record of `evaluate verification`."""
    figures = {"accuracy": record["accuracy"]["mean"], "AUC": record["auc"], "EER": record["eer"]}
    figures |= {f"TAR@{far}": value for far, value in record["tar"].items()}
    sd = record["accuracy"]["std"]
    return _row(about, record, record["pairs"], figures) | {"accuracy_sd": sd}


def of_search(about: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """Of the record of `evaluate identification`."""
    used = record["listed"] - record["left_out"]["count"]
    return _row(about, record, used, _rates(record))


def of_templates(
    about: dict[str, Any], key: str, record: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Of the record of `evaluate ijb`: 1:1, then a row for each gallery of 1:N."""
    pairs = record["verification"]
    figures = {f"TAR@{far}": value for far, value in pairs["tar"].items()}
    base = record | {"intervals": {}}
    first = about | {"protocol": "1:1", "key": f"{key} 1:1"}
    yield _row(first, base, record["images"], figures)
    for name, found in record["identification"].items():
        one = about | {"protocol": f"1:N, gallery {name}", "key": f"{key} {name}"}
        yield _row(one, base | {"intervals": found["intervals"]}, record["images"], _rates(found))


def failed(about: dict[str, Any], reason: str) -> dict[str, Any]:
    """Of a protocol that could not be run."""
    nothing: dict[str, Any] = {
        "figures": {},
        "intervals": {},
        "key": "",
        "listed": None,
        "used": None,
    }
    return about | nothing | {"complete": False, "error": reason}


def _rates(record: dict[str, Any]) -> dict[str, float | None]:
    ranks = {f"rank {rank}": value for rank, value in record["rank"].items()}
    return ranks | {f"TPIR@{fpir}": value for fpir, value in record["tpir"].items()}


def _row(
    about: dict[str, Any], record: dict[str, Any], used: int, figures: dict[str, float | None]
) -> dict[str, Any]:
    left_out = record["left_out"]
    intervals = {_shown(name): found for name, found in record.get("intervals", {}).items()}
    return about | {
        "listed": record["listed"],
        "used": used,
        "left_out": left_out,
        "complete": not left_out["count"] and not about["notes"],
        "doubts": record["doubts"],
        "shared_identities": record.get("shared_identities"),
        "figures": figures,
        "intervals": {name: intervals[name] for name in figures if intervals.get(name)},
        "error": "",
    }


def _shown(name: str) -> str:
    """The name of a figure as rows have it."""
    kind, _, value = name.partition(" ")
    if kind in ("tar", "tpir"):
        return f"{kind.upper()}@{value}"
    return _SAME_NAMES.get(name, name)
