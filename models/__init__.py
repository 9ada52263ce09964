"""Score networks: what they are, how they are fitted, and how they are kept."""
