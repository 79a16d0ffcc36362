"""The demo set: warps of one portrait."""
