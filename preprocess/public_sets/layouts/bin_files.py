"""insightface's .bin files, known by their names."""

from __future__ import annotations

from pathlib import Path

from faceguide.cache.pairs.pair_lists import read_pairs
from faceguide.preprocess.public_sets.found_set import FoundSet, counted

# Name of the file, or of CVLFace's folder → the set.
SETS = {
    "lfw": "lfw",
    "cfp_fp": "cfp-fp",
    "cfp_ff": "cfp-ff",
    "agedb_30": "agedb-30",
    "calfw": "calfw",
    "cplfw": "cplfw",
    "xqlfw": "xqlfw",
    "mlfw": "mlfw",
}


def find(path: Path) -> list[FoundSet]:
    """The set of a .bin file by its name; none for an unknown name.

    Raises:
        VerificationBinError: when it is damaged or not a verification set.
    """
    benchmark = SETS.get(path.stem.lower())
    if benchmark is None or not path.is_file():
        return []
    return [counted(FoundSet(benchmark, path, "bin", pairs={"": read_pairs(path)}))]
