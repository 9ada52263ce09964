"""Tables of the paper: planned, computed cell by cell, and written."""
