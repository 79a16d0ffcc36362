"""Where faces may be: box detectors for second looks."""
