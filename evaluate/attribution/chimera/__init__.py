"""Faces composed of two identities, and what maps of them must tell apart."""
