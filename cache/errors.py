"""Errors that a user can act on: each says what was expected, what was found and what to do."""

from __future__ import annotations


class FaceguideError(Exception):
    """A fault in the input or the environment, in one line that names the remedy."""


class CacheError(FaceguideError):
    """A cache directory that cannot be read, written or trusted as it stands."""


class ListError(FaceguideError):
    """A list of pairs, probes or templates that is not in any known layout."""
