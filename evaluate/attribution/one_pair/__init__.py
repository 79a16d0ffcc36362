"""One pair explained: its maps, its decision, what carried it and what would change it."""
