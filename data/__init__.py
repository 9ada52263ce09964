"""Images as uint8 arrays, from tensorflow-datasets or from the user's own files, and the order in which they are seen.

The names below are imported at first use, so that `data.config` alone stays cheap to import.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.batches import batch_indices, stream, to_float, to_uint8
    from data.loading import Split, class_names, load, load_splits

__all__ = ["Split", "batch_indices", "class_names", "load", "load_splits", "stream", "to_float", "to_uint8"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "data.loading" if name in ("Split", "class_names", "load", "load_splits") else "data.batches"
    return getattr(importlib.import_module(home), name)
