"""`evaluate explain`; registered by `evaluate/cli.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from faceguide.core.commands.console import Command, echo_json, interruptible, printable, say
from faceguide.core.commands.settings import option, settings
from faceguide.core.commands.shared_options import CACHES, OUT_FILE, Names, Output
from faceguide.core.errors import FaceguideError
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.evaluation_options import NetworkOptions
from faceguide.evaluate.score.matcher_options import MatcherName

if TYPE_CHECKING:  # `evaluate --help` must not wait for torch
    from faceguide.cache.reader import FaceCache


@dataclass(frozen=True, kw_only=True)
class PairQuestion(MatcherName):
    """Which two faces, and what is asked of them."""

    methods: tuple[str, ...] = option(
        ("hirescam", "lrp"),
        "Names or module:function, separated by commas, see `evaluate methods`.",
        type=Names(),
        multiple=False,
    )
    threshold: str | None = option(
        None,
        "One identity from this score on: a number, or a run of `evaluate verification`, whose "
        "equal error rate it then is.  [default: no decision]",
        metavar="NUMBER|RUN",
    )
    cache: Path | None = option(None, "A and B are keys or row numbers of this cache.", type=CACHES)
    crops: bool = option(False, "The files are crops, aligned as those of a cache.")
    others: Path | None = option(
        None,
        "Cache with faces of other identities, which occlusion-faces, expected-gradients and "
        "--baseline face take.  [default: --cache]",
        type=CACHES,
    )
    out: Path | None = option(
        None, "Picture to write, .png, .pdf or .svg; it shows both faces.", type=OUT_FILE
    )


@click.command("explain", cls=Command)
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@settings(question=PairQuestion, network=NetworkOptions, how=Settings, output=Output)
def explain_command(
    first: str,
    second: str,
    question: PairQuestion,
    network: NetworkOptions,
    how: Settings,
    output: Output,
) -> None:
    """Why are the faces A and B taken for one identity, or for two?

    A and B are photographs, whose faces are found and aligned; --crops and --cache take others.
    Prints the score, the decision, the share of each landmark region in the maps of both faces,
    what each region does to the score, and which of 7×7 cells together would change the decision:
    those of a match are blurred, those of a rejection exchanged with the other face's.

    \b
    Examples:
      evaluate explain A.jpg B.jpg --weights mobilefacenet.pt --methods lrp,hirescam \\
        --threshold 0.3 --out pair.png
      evaluate explain p1/1.jpg p2/1.jpg --cache cache/ --weights run/ --threshold lfw/ --json
    """
    # The front door: this command is one of its callers.
    from faceguide.evaluate.attribution.one_pair import pair_picture
    from faceguide.explaining import explain_pair
    from faceguide.face_network import FaceNetwork

    if question.cache is not None and question.crops:
        raise click.UsageError("--crops is for files; leave it out with --cache")
    if question.out is not None:
        pair_picture.check_picture(question.out)
    with interruptible():
        found = explain_pair(
            FaceNetwork(network.load()),
            _face(first, question),
            _face(second, question),
            question.methods,
            threshold=question.threshold,
            matcher=question.matcher,
            others=_others((first, second), question),
            **vars(how),
        )
        if question.out is not None:
            pair_picture.save_picture(found, question.out)
    if output.as_json:
        echo_json(found.record())
    else:
        click.echo("\n".join(map(printable, found.text().split("\n"))))
    if question.out is not None:
        say(f"wrote {printable(question.out)}, which shows both faces: share it with care")


def _face(name: str, question: PairQuestion) -> Any:
    """What the front door takes for one face."""
    from faceguide.cache.reader import FaceCache

    if question.cache is not None:
        cache = FaceCache.open(question.cache)
        return cache[_row(name, cache)]
    if not question.crops:
        return name
    from faceguide.core.faces.decode import DecodeError, decode
    from faceguide.core.files import remedy
    from faceguide.face import Face

    try:
        return Face(decode(Path(name).read_bytes()), name)
    except OSError as error:
        raise FaceguideError(f"{name}: cannot read: {remedy(error)}") from None
    except DecodeError as error:
        raise FaceguideError(f"{name}: {error}") from None


def _others(names: tuple[str, str], question: PairQuestion) -> Any:
    """Crops of other identities than those of A and B, or None."""
    import numpy as np

    from faceguide.cache.reader import FaceCache
    from faceguide.evaluate.attribution.protocol.infill import Donors

    if (directory := question.others or question.cache) is None:
        return None
    cache = FaceCache.open(directory)
    rows = cache.select()
    if question.others is None:
        own = cache.read([_row(name, cache) for name in names], ["label"])["label"]
        rows = rows[~np.isin(cache.read(rows, ["label"])["label"], own)]
    return Donors.of(cache, rows).images if len(rows) else None


def _row(name: str, cache: FaceCache) -> int:
    """A row of a cache by its key, else by its number."""
    if (row := cache.find([name]).get(name)) is not None:
        return int(row)
    if name.isdecimal() and int(name) < len(cache):
        return int(name)
    raise FaceguideError(
        f"{cache.directory}: no key {name!r}, nor a row number below {len(cache)}; `cache preview` "
        "shows keys"
    )
