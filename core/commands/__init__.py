"""What commands of every group do alike."""
