"""Measure what was learnt: verification, identification, occluded matching, attribution."""
