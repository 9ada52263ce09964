"""The command line: Hydra, with errors in one sentence and exit codes that mean something.

0 done, 1 failed, 2 bad configuration, 3 non-finite numbers, 130 and 143 stopped by a signal and saved.
"""

import difflib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runs.errors import ConfigError, RunError

CONF = str(Path(__file__).parent.parent / "conf")


def run(main: Callable[[DictConfig], None], config_name: str, job: type) -> None:
    """Compose conf/<config_name>.yaml with the command line, run `main` on it, and leave with its exit code.

    job: the dataclass of its options, whose types Hydra then checks.

    With HYDRA_FULL_ERROR=1 in the environment errors are shown as tracebacks.
    """
    debug = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands its errors on, to be worded and numbered here
    register(config_name, job)
    failures: list[RunError] = []

    def worded(cfg: DictConfig) -> None:
        _log_plainly()
        try:
            main(cfg)
        except RunError as error:
            print(f"error: {error}", file=sys.stderr)
            if debug or HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # the sweep does its other jobs and raises this again at the end
            failures.append(error)

    try:
        hydra.main(version_base="1.3", config_path=CONF, config_name=config_name)(worded)()
    except KeyboardInterrupt:
        sys.exit(130)
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {_sentence(error, config_name)}", file=sys.stderr)
        failures.append(ConfigError())
    except Exception as error:
        if debug or not isinstance(error, RunError):
            traceback.print_exc()
        failures.append(error if isinstance(error, RunError) else RunError())
    sys.exit(failures[0].exit_code if failures else 0)


def register(config_name: str, job: type) -> None:
    """Make the dataclass known to Hydra as what conf/<config_name>.yaml starts from: `hydra/schema: <config_name>`.

    The files of a group need no schema of their own: the type of the job's field is theirs.
    """
    ConfigStore.instance().store(group="hydra/schema", name=config_name, node=job, package="_global_")


def to_object(cfg: DictConfig) -> Any:
    """The composed configuration as the dataclass that was registered for it."""
    return OmegaConf.to_object(cfg)


def to_dict(cfg: DictConfig) -> dict[str, Any]:
    """The composed configuration as plain values, for JSON and YAML files."""
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _log_plainly() -> None:
    """Libraries' warnings and the rooms' messages to stderr, as they are."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    for room in ("data", "eval", "models", "runs"):
        logging.getLogger(room).setLevel(logging.INFO)


def _sentence(error: Exception, config_name: str) -> str:
    """What is wrong with the command line, and the nearest right thing to type."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    text = f"{error}\n{cause or ''}"
    if missing := re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '(\S+)' is not in struct", text):
        return _unknown(missing[1], _known_keys(config_name), "option")
    if choice := re.search(r"Could not find '([^']+)/([^'/]+)'\s+Available options in '[^']+':((?:\n\t\S+)+)", text):
        options = [line.strip() for line in choice[3].splitlines() if line.strip()]
        return _unknown(choice[2], options, choice[1])
    if wrong := re.search(r"Error merging override ([^\n]+)\n([^\n]+)", text):
        return f"{wrong[1]} is refused: {wrong[2]}"
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _unknown(name: str, known: list[str], what: str) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    by_last_word = [key for key in known if key.rpartition(".")[2] == name.rpartition(".")[2]]
    hint = f"did you mean {(close + by_last_word)[0]}?" if close or by_last_word else f"allowed: {', '.join(known)}"
    return f"unknown {what} {name!r}; {hint}"


def _known_keys(config_name: str) -> list[str]:
    """Every dotted key of the configuration, with the groups chosen on the command line as far as they exist."""
    choices = [a for a in sys.argv[1:] if re.fullmatch(r"\w+=[\w-]+", a) and (Path(CONF) / a.split("=")[0]).is_dir()]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(CONF, version_base="1.3"):
        cfg = hydra.compose(config_name, overrides=choices)
    return _dotted(OmegaConf.to_container(cfg, resolve=False), "")


def _dotted(node: object, prefix: str) -> list[str]:
    if not isinstance(node, dict):
        return [prefix]
    children = [_dotted(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in node.items()]
    return ([prefix] if prefix else []) + [key for keys in children for key in keys]
