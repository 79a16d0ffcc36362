"""Lists of pairs; the reader is the cache's, since training reads them too."""

from faceguide.cache.pair_lists import PairList, read_pairs

__all__ = ["PairList", "read_pairs"]
