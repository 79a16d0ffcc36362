"""From mask files to visibility maps."""
