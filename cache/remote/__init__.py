"""Caches in object stores and behind HTTP: read through a bounded local folder, copied, cut."""
