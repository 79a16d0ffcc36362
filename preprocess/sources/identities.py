"""What only all rows of a source show: those without an identity, identities under two names."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import replace

from faceguide.cache.pairs.identity_names import NOBODY, folded
from faceguide.preprocess.sources.source_row import Source, SourceRow


def checked_rows(source: Source) -> Iterator[SourceRow]:
    """The rows of a source; names that mean no identity are dropped.

    What looks wrong about the identities is added to the source's doubts; they are complete at
    the end. Names are held once for each identity, as by whoever numbers them.
    """
    spellings: dict[str, str] = {}
    seen: set[str] = set()
    rows = 0
    for row in source.rows():
        rows += 1
        identity = row.identity
        if identity in NOBODY:
            source.doubts.add("no_identity", f"{identity!r}, of {row.key!r}")
            row = replace(row, identity="")
        elif identity and identity not in seen:
            seen.add(identity)
            first = spellings.setdefault(folded(identity), identity)
            if first is not identity:
                # Two Unicode forms look the same unless they are escaped.
                composed = unicodedata.is_normalized("NFC", first + identity)
                shown = map(repr if composed else ascii, (first, identity))
                source.doubts.add("spellings", " and ".join(shown))
        yield row
    if len(seen) == 1 and rows > 1:
        source.doubts.add("single_identity", repr(next(iter(seen))))
