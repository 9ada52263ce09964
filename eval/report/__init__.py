"""A report: one HTML file of what is in a folder of results."""
