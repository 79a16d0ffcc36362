"""Every guarded reader and writer of foreign bytes."""
