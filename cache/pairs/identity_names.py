"""Names of identities as tables write them: which mean none, and which are spellings of one."""

from __future__ import annotations

import re
import unicodedata

# What pandas reads as missing, and what else tables write for no identity.
NOBODY = frozenset(
    {
        *("unknown", "-1", "-1.0", "NULL", "null", "None", "none", "nan", "NaN", "NAN"),
        *("-nan", "-NaN", "NA", "N/A", "n/a", "#N/A", "#NA", "<NA>", "NaT"),
    }
)


def folded(identity: str) -> str:
    """Equal for spellings of one name: case, blanks, Unicode forms, 3.0 and 3 and 003."""
    name = identity
    if not identity.isascii():
        name = unicodedata.normalize("NFKC", identity)
        name = "".join(letter for letter in name if unicodedata.category(letter) != "Cf")
    name = " ".join(name.casefold().replace("_", " ").split())
    number = re.fullmatch(r"0*(\d+)(\.0*)?", name)
    return number[1] if number else name
