"""Heatmaps and region masks, drawn from landmarks."""
