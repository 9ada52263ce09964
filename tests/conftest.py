"""What tests of several files use."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def quick_to_compile() -> Iterator[None]:
    """For tests that compile much and run it once: code that is made in two thirds of the time, and is slower."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
