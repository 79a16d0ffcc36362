"""Learn from a cache: models, losses and the two trainers."""
