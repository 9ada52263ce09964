"""File formats read without running what is in them, shared by all packages."""
