"""The pages of documentation, and what makes those that are made."""
