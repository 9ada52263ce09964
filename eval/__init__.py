"""Measuring samples: feature extractors, FID, and the tables and figures made from them."""
