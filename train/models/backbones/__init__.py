"""From prepared pixels to an embedding."""
