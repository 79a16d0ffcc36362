"""Published test sets as they lie on disk: images, identities, lists of pairs and searches."""
