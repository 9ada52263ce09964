def configure_jax() -> str:
    return "jax"
