"""IJB-B and IJB-C: templates of many images."""
