"""From what lies on disk to a network that works."""
