"""Draw the demo's photo set in FOLDER: labelled pictures, some veiled with exact masks, and pairs.

All pictures are warps of one public-domain portrait: good for trying commands, no measure of
accuracy. Needs the extra `demo`.

    python bench/demo_photos.py demo/set
"""

from __future__ import annotations

from pathlib import Path

import click
from demo.photos import write_demo_photos

from faceguide.core.errors import FaceguideError


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--identities", type=click.IntRange(2, 40), default=12, show_default=True)
@click.option("--images", type=click.IntRange(2, 100), default=16, show_default=True, help="Each.")
@click.option("--seed", type=int, default=0, show_default=True)
def main(folder: Path, identities: int, images: int, seed: int) -> None:
    try:
        write_demo_photos(folder, identities=identities, images=images, seed=seed)
    except FaceguideError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{folder}: {identities * images} photographs of {identities} identities")


if __name__ == "__main__":
    main()
