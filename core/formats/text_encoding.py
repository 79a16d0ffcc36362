"""Which encoding a text from another program is in, by its first bytes."""

from __future__ import annotations

import codecs

START = 4096  # bytes that `encoding_of` wants to see, as far as there are so many
# UTF-32's mark begins as UTF-16's does: the longer one is asked first.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def encoding_of(start: bytes) -> tuple[str, int]:
    """The encoding, and the length of the byte order mark in front, 0 without one.

    UTF-16 without a mark is known by its zero bytes, which no list in UTF-8 holds: those of a first
    letter of ASCII, or the high bytes of many. Everything else counts as UTF-8; what is not, such
    as file names in other codes, is kept by `surrogateescape`.
    """
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding, len(mark)
    for encoding, first, high in (
        ("utf-16-le", start[1:2], start[1::2]),
        ("utf-16-be", start[:1], start[::2]),
    ):
        if first == b"\0" or (high and 0.4 * len(high) < high.count(0) == start.count(0)):
            return encoding, 0
    return "utf-8", 0
