"""Benchmarks of papers: find the sets that lie in a folder, run each by its protocol."""
