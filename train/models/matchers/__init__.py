"""From two feature maps to a score."""
