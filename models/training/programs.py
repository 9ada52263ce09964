"""Traced training steps, kept on disk beside the code that was compiled of them.

JAX looks compiled code up by the program it was compiled from, so that every start traces the step anew, which takes
longer than to load its code. Here the program itself is looked up, by all that it follows from.
"""

import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax import export

from formats.files import write_atomically

Step = Callable[..., tuple[Any, dict[str, jax.Array]]]

_ROOT = Path(__file__).parent.parent
_CODE = ("deis", "models", "runs", "train.py")  # of this repository, where a training step is made
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def kept(step: Step, options: dict[str, Any]) -> Step:
    """`step(state, *batch) -> (state, metrics)`, traced only if no earlier process has left its program on disk.

    step: a jitted function whose state keeps its structure and layout; the old state's memory is reused.
    options: what the program follows from besides this repository's code, the versions of packages, the environment's
        settings of JAX, and the arguments' shapes and layout; as JSON has it.

    Programs lie in traced/ within JAX's compilation cache, each behind its checksum. Without that cache none is kept.
    """
    program: Callable[..., Any] | None = None

    def call(state: Any, *batch: Any) -> tuple[Any, dict[str, jax.Array]]:
        nonlocal program
        leaves, structure = jax.tree.flatten(state)
        if program is None:
            program = _program(step, structure, leaves, batch, options)
        leaves, metrics = program(leaves, *batch)
        return jax.tree.unflatten(structure, leaves), metrics

    return call


def _program(step: Step, structure: Any, leaves: list[jax.Array], batch: tuple[Any, ...], options: Any) -> Any:
    """The jitted function (leaves, *batch) -> (leaves, metrics): what is kept knows lists and dicts, not the state."""

    def of_leaves(leaves: list[jax.Array], *batch: Any) -> tuple[list[jax.Array], dict[str, jax.Array]]:
        state, metrics = step(jax.tree.unflatten(structure, leaves), *batch)
        return jax.tree.leaves(state), metrics

    found = _exported(of_leaves, (leaves, *batch), {"state": str(structure), "options": options})
    laid = [leaf.sharding for leaf in leaves]
    return jax.jit(found.call, donate_argnums=0, out_shardings=(laid, None))


def _exported(function: Callable[..., Any], arguments: tuple[Any, ...], options: Any) -> export.Exported:
    """The program of `function` for such arguments, from disk if it is there."""
    cache = jax.config.values["jax_compilation_cache_dir"]
    if cache is None or not jax.config.values["jax_enable_compilation_cache"]:
        return export.export(jax.jit(function))(*arguments)
    path = Path(cache) / "traced" / _key(arguments, options)
    content = path.read_bytes() if path.is_file() else b""
    if content[:32] == _digest(content[32:]):
        return export.deserialize(bytearray(content[32:]))
    found = export.export(jax.jit(function))(*arguments)
    content = bytes(found.serialize())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _digest(content) + content)
    except OSError as error:
        print(f"the traced training step was not kept: {error}", file=sys.stderr)
    return found


def _key(arguments: tuple[Any, ...], options: Any) -> str:
    """What a program follows from, as a file's name."""
    leaves, structure = jax.tree.flatten(arguments)
    facts = {
        "options": options,
        "arguments": [str(structure), *(f"{leaf.dtype}{leaf.shape} {leaf.sharding}" for leaf in leaves)],
        "code": {str(path.relative_to(_ROOT)): _digest(path.read_bytes()).hex() for path in _sources()},
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "settings": {name: value for name, value in os.environ.items() if name.startswith(("JAX_", "XLA_"))},
        "backend": jax.default_backend(),
    }
    return _digest(json.dumps(facts, sort_keys=True).encode()).hex()


def _sources() -> list[Path]:
    return sorted(path for name in _CODE for path in [_ROOT / name, *(_ROOT / name).rglob("*.py")] if path.is_file())


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
