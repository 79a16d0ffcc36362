"""Attribution methods: each a function from a pair to a map."""
