"""From weights and rows to embeddings, and from these to scores."""
