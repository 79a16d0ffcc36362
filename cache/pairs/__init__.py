"""Lists of pairs, and from their names to rows."""
