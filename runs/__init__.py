"""What every command has: command line, errors, signals, run folder, log, and JAX's environment."""
