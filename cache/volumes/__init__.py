"""Several caches as one: which they are, whether they agree, and their rows as one list."""
