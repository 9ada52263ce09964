"""The command line: Hydra, with errors in one sentence and exit codes that mean something.

0 done, 1 failed, 2 bad configuration, 3 non-finite numbers, 130 and 143 stopped by a signal and saved.
"""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runs.errors import ConfigError, RunError
from runs.hints import CONF, choices_of, fields_of, reworded, sentence, unknown_option

# the choice of a group if conf/ has it, or else another one; in YAML ${choice_or:GROUP,CHOICE,OTHERWISE}
OmegaConf.register_new_resolver(
    "choice_or",
    lambda group, choice, otherwise: choice if choice in choices_of(group) else otherwise,
    replace=True,
)


def run(main: Callable[[DictConfig], None], config_name: str, job: type) -> None:
    """Compose conf/<config_name>.yaml with the command line, run `main` on it, and leave with its exit code.

    job: the dataclass of its options, whose types Hydra checks. HYDRA_FULL_ERROR=1 shows errors as tracebacks.
    """
    debug = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands its errors on, to be worded and numbered here
    register(config_name, job)
    failures: list[RunError] = []

    def worded(cfg: DictConfig) -> None:
        # libraries' warnings and the rooms' messages go to stderr as they are
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
        for room in ("data", "eval", "models", "runs"):
            logging.getLogger(room).setLevel(logging.INFO)
        try:
            _refuse_added(cfg, config_name, job)
            main(cfg)
        except RunError as error:
            print(f"error: {error}", file=sys.stderr)
            if debug or HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # the sweep does its other jobs and raises this again at the end
            failures.append(error)

    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(worded)()
    except KeyboardInterrupt:
        sys.exit(130)
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {sentence(error, config_name, job)}", file=sys.stderr)
        failures.append(ConfigError())
    except Exception as error:
        if debug or not isinstance(error, RunError):
            traceback.print_exc()
        failures.append(error if isinstance(error, RunError) else RunError())
    sys.exit(failures[0].exit_code if failures else 0)


def register(config_name: str, job: type) -> None:
    """Make the dataclass known to Hydra as `<config_name>_job`, which conf/<config_name>.yaml starts from.

    The files of a group need no schema of their own: the type of the job's field is theirs.
    """
    ConfigStore.instance().store(name=f"{config_name}_job", node=job)


def to_object(cfg: DictConfig) -> Any:
    """The composed configuration as the dataclass that was registered for it.

    Raises ConfigError for an option without a value, and for a reference to one that does not exist.
    """
    try:
        return OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise ConfigError(reworded(str(error))) from error


def to_dict(cfg: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """The composed configuration as plain values, for JSON and YAML files. resolve: replace references by values."""
    container = OmegaConf.to_container(cfg, resolve=resolve)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _refuse_added(cfg: DictConfig, config_name: str, job: type) -> None:
    """Refuse what +KEY=VALUE added and no code reads: Hydra takes it, even where a dataclass has no such field."""
    values, fields = to_dict(cfg, resolve=False), fields_of(job)
    added = [key for key in values if key not in fields]
    for group, keys in fields.items():
        if keys and isinstance(values.get(group), dict):
            added += [f"{group}.{key}" for key in values[group] if key not in keys]
    if added:
        raise ConfigError(unknown_option(added[0], config_name, job))
