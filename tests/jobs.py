"""The options of commands, as their dataclasses."""

from importlib import import_module
from pathlib import Path
from typing import Any

import hydra

from runs import cli

CONF = Path(__file__).parent.parent / "conf"

JOBS = {"train": ("train", "TrainJob"), "sample": ("sample", "SampleJob"), "table": ("eval.table", "TableJob")}


def job(config_name: str, *overrides: str) -> Any:
    """The options of a command with these overrides on its command line."""
    module, name = JOBS[config_name]
    cli.register(config_name, getattr(import_module(module), name))
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return cli.to_object(hydra.compose(config_name, list(overrides)))
