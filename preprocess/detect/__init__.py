"""Find the landmarks of a face, or check those that are imported."""
