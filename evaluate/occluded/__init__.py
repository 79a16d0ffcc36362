"""Covers laid on purpose over the faces of a list of pairs: what accuracy is left."""
