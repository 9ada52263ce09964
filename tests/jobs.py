"""The options of commands, as their dataclasses."""

from copy import deepcopy
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from runs import cli

CONF = Path(__file__).parent.parent / "conf"

JOBS = {"train": ("train", "TrainJob"), "sample": ("sample", "SampleJob"), "table": ("eval.table", "TableJob")}


def job(config_name: str, *overrides: str) -> Any:
    """The options of a command with these overrides on its command line."""
    module, name = JOBS[config_name]
    cli.register(config_name, getattr(import_module(module), name))
    return cli.to_object(composed(config_name, *overrides))


def composed(config_name: str, *overrides: str) -> DictConfig:
    """What Hydra composes, which takes a tenth of a second: once for every choice of files, whatever their values."""
    choices: list[Override] = []
    values: list[Override] = []
    for option in OverridesParser.create().parse_overrides(list(overrides)):
        plain = not (option.is_add() or option.is_force_add() or option.is_delete() or option.is_sweep_override())
        name = option.key_or_group
        (values if plain and not (CONF / name).is_dir() and "/" not in name else choices).append(option)
    cfg = deepcopy(_chosen(config_name, *(option.input_line for option in choices)))
    for option in values:
        OmegaConf.update(cfg, option.key_or_group, option.value())
    return cfg


@cache
def _chosen(config_name: str, *choices: str) -> DictConfig:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(config_name, list(choices))
