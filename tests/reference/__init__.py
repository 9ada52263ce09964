"""Textbook code that the library is tested against; it knows deis only as SDEs and tables of numbers."""
