"""From a template beside its module to an HTML page that needs no network; names are escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from faceguide.core.commands.console import printable
from faceguide.evaluate.metrics.roc import far_name
from faceguide.evaluate.report.tables import between, percent


def render(template: Path, **values: Any) -> bytes:
    """The page of a template; a value that it lacks is an error.

    Filters: `printable` escapes control characters, `percent` and `between` print shares and
    their intervals, `far` a false accept rate, `thousands` a count, `by_number` sorts items.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(template.parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "printable": printable,
        "percent": percent,
        "between": between,
        "far": far_name,
        "thousands": lambda count: f"{count:,}",
        "by_number": lambda found: sorted(found.items(), key=lambda item: float(item[0])),
    }
    return environment.get_template(template.name).render(**values).encode("utf-8")


def provenance(about: dict[str, Any], settings: dict[str, Any]) -> list[tuple[str, str]]:
    """Where a run's figures come from, of its run.json: names and values."""
    names = ("cache", "cache_manifest", "folder", "backbone", "weights_sha256", "training_run")
    facts = [(name.replace("_", " "), str(about[name])) for name in names if about.get(name)]
    facts.append(("settings", ", ".join(f"{key} {value}" for key, value in settings.items())))
    facts.append(("command line", " ".join(map(str, about.get("argv", [])))))
    versions = about.get("versions", {})
    facts.append(("versions", ", ".join(f"{key} {value}" for key, value in versions.items())))
    return facts
