"""File formats read without running what is in them, for every room."""
