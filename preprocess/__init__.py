"""Fill a cache: find faces, align them, render their guidance, warp their masks."""
