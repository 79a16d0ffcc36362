"""Which pairs fail, and what they have in common."""
