"""Networks as files: this project's form, and what is imported from other projects."""
