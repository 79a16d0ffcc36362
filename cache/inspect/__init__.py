"""What `cache` commands look at: counts, checks, pictures, exports."""
