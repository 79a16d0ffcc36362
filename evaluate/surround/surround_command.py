"""`evaluate surround`; registered by `evaluate/cli.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from faceguide.core.commands.console import Command, echo_json, interruptible, say
from faceguide.core.commands.settings import option, settings
from faceguide.core.commands.shared_options import CACHES, OUT_FILE, Output, Seed
from faceguide.core.files import write_bytes
from faceguide.evaluate.evaluation_options import Bootstrap, NetworkOptions, progress_bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from faceguide.evaluate.surround.looked_at import Faces
    from faceguide.train.models.loading.network import Network


@dataclass(frozen=True, kw_only=True)
class SurroundOptions:
    """How much is looked at, and where examples go."""

    faces: int = option(
        2000, "Faces to compare, at most; up to four an identity.", type=click.IntRange(4)
    )
    sheet: Path | None = option(
        None, "Also write a PNG of examples with their scores.", type=OUT_FILE, free=True
    )


@click.command("surround", cls=Command)
@click.argument("directory", metavar="CACHE", type=CACHES)
@settings(
    network=NetworkOptions, asked=SurroundOptions, intervals=Bootstrap, random=Seed, output=Output
)
def surround_command(
    directory: Path,
    network: NetworkOptions,
    asked: SurroundOptions,
    intervals: Bootstrap,
    random: Seed,
    output: Output,
) -> None:
    """Test whether hair and background of CACHE's faces lead a network.

    Faces are laid into another identity's surround by their landmarks. Printed: how many such
    impostors pass the threshold that lets 1 in 1,000 clean ones in, how often a face outweighs the
    hair around it, how far the surround pulls the score, and TAR with swapped, grey or covered
    surrounds.

    \b
    Examples:
      evaluate surround cache/ --weights mobilefacenet.pt
      evaluate surround cache/ --weights w600k_r50.onnx --sheet surround.png --json
    """
    from faceguide.cache.reader import FaceCache
    from faceguide.evaluate.score.prepare import provenance
    from faceguide.evaluate.surround.looked_at import Faces
    from faceguide.evaluate.surround.surround_scores import surround_scores, told
    from faceguide.evaluate.surround.surround_sheet import surround_sheet

    cache = FaceCache.open(directory)
    loaded = network.load()
    loaded.check_size(cache.require("image").shape[0], str(cache.directory))
    with interruptible():
        faces = Faces.of(cache, cache.select(labelled=True), asked.faces, random.seed)
        if faces.without_landmarks:
            say(
                f"{faces.without_landmarks} of {len(faces.rows)} faces have no landmarks of their "
                "own; the mean oval stands in"
            )
        record, scores = surround_scores(
            faces, _embedding(loaded, faces), intervals.replicates, random.seed
        )
        if asked.sheet is not None:
            write_bytes(asked.sheet, surround_sheet(faces, scores, record["threshold"]))
    doubts = loaded.doubts.counts()
    if output.as_json:
        echo_json({**record, **provenance(cache, loaded), "doubts": doubts})
    else:
        click.echo(told(record))


def _embedding(network: Network, faces: Faces) -> Callable[[str], NDArray[np.float32]]:
    """A function that makes the images of a kind and embeds them, a few at a time."""
    import numpy as np

    from faceguide.evaluate.score.embed import beside_of, describe_crops
    from faceguide.evaluate.score.quick_forward import batch_size_of, quickened
    from faceguide.evaluate.surround.looked_at import COVERS
    from faceguide.train.models.own_check import check_own

    quick, step = quickened(network), 4 * batch_size_of(network)
    covers: dict[str, NDArray[np.float32]] = {}

    def few(crops: list[NDArray[np.uint8]], places: NDArray[np.int64]) -> NDArray[np.float32]:
        landmarks = faces.points[places] / faces.images.shape[1]
        names = [f"row {row}" for row in faces.rows[places]]
        beside = beside_of(network, {"landmarks": landmarks.astype(np.float32)})
        return describe_crops(quick, crops, frozenset({"plain"}), names, beside)["plain_embedding"]

    def made(
        what: str, of: NDArray[np.int64], images: Callable[[int], list[NDArray[np.uint8]]]
    ) -> NDArray[np.float32]:
        """Embeddings (len(of), images of each, E)."""
        found, bar = [], progress_bar(what, len(of))
        for start in range(0, len(of), step):
            here = of[start : start + step]
            crops = [images(start + place) for place in range(len(here))]
            each = len(crops[0])
            flat = [crop for some in crops for crop in some]
            found.append(few(flat, np.repeat(here, each)).reshape(len(here), each, -1))
            bar(len(here))
        return np.concatenate(found)

    def embed(kind: str) -> NDArray[np.float32]:
        if kind == "clean":
            if network.is_foreign:
                import torch

                check_own(network.backbone, network.name, torch.from_numpy(faces.images[:16]))
            every = np.arange(len(faces.images))
            return made("faces", every, lambda place: [faces.images[place]])[:, 0]
        if kind == "swapped":
            return made("surrounds", faces.surround, lambda n: [faces.composed(n)])[:, 0]
        if not covers:
            mated = faces.mated
            all_three = made("covers", mated, lambda n: list(faces.covered(int(mated[n]))))
            covers.update(zip(COVERS, np.moveaxis(all_three, 1, 0), strict=True))
        return covers[kind]

    return embed
