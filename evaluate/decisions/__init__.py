"""What a threshold does: to groups of pairs, and on another set than it was chosen on."""
