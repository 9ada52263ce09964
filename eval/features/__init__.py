"""Feature extractors: images to the vectors that FID and its relatives compare."""
