"""Making a plan: from a listing of sources to a list for each shard."""
