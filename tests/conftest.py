"""What tests of several files use, and the option that leaves the slow ones out."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import pytest

# Most of what the tests compile runs once, so code is made as quickly as can be: in a fifth of the time, and is slower.
# Processes that tests start inherit it. AS_USERS_DO in commands.py and the fixture below undo it for one test, and
# `make test OPTIMIZE=1` for all.
QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
OPTIMIZE = os.environ.get("OPTIMIZE") == "1"
if not OPTIMIZE:
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()
    jax.config.update("jax_disable_most_optimizations", True)

# Files of tests that take up to a minute each, which come first, so that none is left over for one worker in the end.
LONGEST = ("test_devices.py", "test_train.py", "test_paper_run.py", "test_sample.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="leave out tests that start processes or are marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)
    if config.getoption("--fast"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow"))


@pytest.fixture(scope="session", autouse=True)
def _no_processes(request: pytest.FixtureRequest) -> Iterator[None]:
    """With --fast, a test that starts Python anew is skipped where it would."""
    start = subprocess.Popen.__init__

    def skip_python(self: Any, command: Any, *arguments: Any, **options: Any) -> None:
        if isinstance(command, list | tuple) and command[0] == sys.executable:
            pytest.skip("starts a process")
        start(self, command, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        if request.config.getoption("--fast"):
            patch.setattr(subprocess.Popen, "__init__", skip_python)
        yield


@pytest.fixture
def compiled_as_users_do() -> Iterator[None]:
    """For tests of what optimizations may change, and for those that compute for longer than they compile."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", not OPTIMIZE)
