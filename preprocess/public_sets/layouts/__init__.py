"""How sets lie on disk, a module a family; each has `find(folder)`."""
