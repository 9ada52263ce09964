"""Networks in files: this project's published form, and import from the formats of other projects."""
