"""`train distil`: a network that answers altered faces as it answers unaltered ones."""
