"""The command line: Hydra, with errors in one sentence and exit codes that mean something.

0 done, 1 failed, 2 bad configuration, 3 non-finite numbers, 130 and 143 stopped by a signal and saved.
"""

import contextlib
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runs.errors import ConfigError, RunError, Stopped
from runs.folder import overrides
from runs.hints import CONF, choices_of, fields_of, refused_flag, reworded, sentence, unknown_option

# the choice of a group if conf/ has it, or else another one; in YAML ${choice_or:GROUP,CHOICE,OTHERWISE}
OmegaConf.register_new_resolver(
    "choice_or",
    lambda group, choice, otherwise: choice if choice in choices_of(group) else otherwise,
    replace=True,
)
# one of two words, by whether a group has a choice; in YAML ${if_chosen:${GROUP},WORD,OTHERWISE}
OmegaConf.register_new_resolver(
    "if_chosen", lambda choice, word, otherwise: otherwise if choice in (None, "None", "null") else word, replace=True
)


def run(main: Callable[[DictConfig], float | None], config_name: str, job: type) -> None:
    """Compose conf/<config_name>.yaml with the command line, run `main` on it, and leave with its exit code.

    main: what it returns is the number that a search minimises. job: the dataclass of its options, whose types Hydra
    checks. HYDRA_FULL_ERROR=1 shows errors as tracebacks.
    """
    debug = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands its errors on, to be worded and numbered here
    process = os.getpid()
    register(config_name, job)
    failures: list[RunError] = []

    def worded(cfg: DictConfig) -> float | None:
        # libraries' warnings and the rooms' messages go to stderr as they are
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
        for room in ("data", "eval", "models", "runs"):
            logging.getLogger(room).setLevel(logging.INFO)
        try:
            _refuse_changed_schema(cfg, config_name, job)
            return main(cfg)
        except Exception as error:
            shown = RunError()
            if isinstance(error, RunError | OmegaConfBaseException):
                shown = error if isinstance(error, RunError) else ConfigError(sentence(error, config_name, job))
                print(f"error: {shown}", file=sys.stderr)
            if debug or not str(shown):
                traceback.print_exc()
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                if isinstance(shown, Stopped) and os.getpid() == process:
                    sys.exit(shown.exit_code)  # the signal was for the sweep, not for this job alone
                raise shown from None  # the sweep does its other jobs and raises this again at the end
            failures.append(shown)
            return None

    try:
        # the parser takes no flag among the options, as -m in KEY=VALUE -m KEY=VALUE
        sys.argv[1:] = sorted(sys.argv[1:], key=lambda text: re.match("[^-].*=", text) is not None)
        _refuse_flags(config_name, job)
        sys.argv[1:] = _each_its_own(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(worded)()
    except KeyboardInterrupt:
        sys.exit(130)
    except RunError as shown:
        failures.append(shown)
    except Exception as error:  # of Hydra, which found no job in the options
        if debug:
            traceback.print_exc()
        print(f"error: {sentence(error, config_name, job)}", file=sys.stderr)
        failures.append(ConfigError())
    sys.exit(failures[0].exit_code if failures else 0)


def register(config_name: str, job: type) -> None:
    """Make the dataclass known to Hydra as `<config_name>_job`, which conf/<config_name>.yaml starts from.

    The files of a group need no schema of their own: the type of the job's field is theirs.
    """
    ConfigStore.instance().store(name=f"{config_name}_job", node=job)


def to_object(cfg: DictConfig) -> Any:
    """The composed configuration as the dataclass that was registered for it.

    Raises ConfigError for an option without a value, for a reference to one that does not exist, and for an address
    where a folder is meant.
    """
    try:
        found = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise ConfigError(reworded(str(error))) from error
    _refuse_addresses(to_dict(cfg))
    return found


def to_dict(cfg: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """The composed configuration as plain values, for JSON and YAML files. resolve: replace references by values."""
    container = OmegaConf.to_container(cfg, resolve=resolve)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _refuse_addresses(options: dict[str, Any], group: str = "") -> None:
    """Refuse gs://bucket/run and the like, which would become folders named gs: here."""
    for key, value in options.items():
        written = key in ("run_dir", "output_root", "data_dir", "dest")  # hf://owner/name is for what is read
        if isinstance(value, dict):
            _refuse_addresses(value, f"{group}{key}.")
        elif isinstance(value, str) and re.match(r"\w+://" if written else r"(?!hf:)\w+://", value):
            raise ConfigError(
                f"{group}{key}={value} is an address: give a folder or file of this machine, as a mounted one is"
            )


def _refuse_flags(config_name: str, job: type) -> None:
    """Leave with one sentence for a flag that Hydra does not have, instead of a list of its flags."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            get_args_parser().parse_args()
    except SystemExit as end:
        if not end.code:  # --version
            raise
        reason = said.getvalue().strip().rpartition("error: ")[2]
        if unknown := re.search(r"unrecognized arguments: (-\S+)", reason):
            flag, _, value = unknown[1].partition("=")
            following = sys.argv[sys.argv.index(unknown[1]) + 1 :]
            if not value and following and not re.search("^-|=", following[0]):
                value = following[0]
            reason = refused_flag(flag, value or "VALUE", config_name, job)
        print(f"error: {reason}", file=sys.stderr)
        sys.exit(ConfigError.exit_code)


def _each_its_own(arguments: list[str]) -> list[str]:
    """In a sweep over the choices of a group, let the group's options be read with each, and not with the default."""
    if not {"-m", "--multirun"} & set(arguments):
        return arguments
    options = [text.partition("=") for text in arguments]
    swept = {key for key, _, value in options if "," in value and choices_of(key)}
    return [
        f"{key}=choice({value})"
        if key.rpartition(".")[0] in swept and re.fullmatch(r"[\w.+-]+", value)
        else key + is_ + value
        for key, is_, value in options
    ]


def _refuse_changed_schema(cfg: DictConfig, config_name: str, job: type) -> None:
    """Refuse what +KEY=VALUE added and no code reads, and what ~GROUP.KEY took away: Hydra allows both."""
    for removed in overrides():
        if re.match(r"~\w+\.", removed):
            raise ConfigError(f"{removed} takes away what is needed: write {removed[1:].partition('=')[0]}=VALUE")
    values, fields = to_dict(cfg, resolve=False), fields_of(job)
    added = [key for key in values if key not in fields]
    for group, keys in fields.items():
        if keys and isinstance(values.get(group), dict):
            added += [f"{group}.{key}" for key in values[group] if key not in keys]
    if added:
        raise ConfigError(unknown_option(added[0], config_name, job))
