"""A run: its options, command line, folder, log, and what it is built from."""
