"""Which rows make a batch, and how they are augmented."""
