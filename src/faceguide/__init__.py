"""faceguide: what guides a face network, computed once and kept.

The four sub-packages live in the folders of the same name at the top of the repository:
``faceguide.preprocess`` fills a cache, ``faceguide.cache`` keeps and streams it,
``faceguide.train`` learns from it and ``faceguide.evaluate`` measures what was learnt.
"""

__version__ = "0.1.0"
