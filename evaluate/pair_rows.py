"""Rows of pairs; found by the cache, since training needs them too."""

from faceguide.cache.pair_rows import LeftOut, PairRows, clusters, find_rows, resolve

__all__ = ["LeftOut", "PairRows", "clusters", "find_rows", "resolve"]
