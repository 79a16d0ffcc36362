"""Falsification tests: what a map claims, and whether it holds."""
