"""Hydra's sweeper for -m, without the combinations that cannot be, and with a folder of its own for every sweep.

Hydra takes plugins from packages of this name only; conf/hydra/sweeper/combinations.yaml names this one.
"""

import json
import re
import shlex
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import filter_overrides
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import OmegaConf, open_dict

from formats.files import read_json, write_atomically
from runs.folder import make_new, read_status
from runs.hints import of_other_choices, quoted

FILE = "sweep.json"  # in the folder of a sweep: its command and the options of its jobs


class Combinations(BasicSweeper):
    """Runs all combinations of the values, but for those of a choice with an option that only other choices have."""

    def setup(self, **context: Any) -> None:
        """Keep what a launcher is made of."""
        self._context = context
        super().setup(**context)

    def sweep(self, arguments: list[str]) -> None:
        """Run the jobs; meanwhile no other process takes the sweep's folder. Then say what shows them together."""
        with ExitStack() as self._held:
            super().sweep(arguments)
        assert self.config is not None
        if self.config.hydra.job.config_name in ("sample", "train"):
            print(f"Next: python -m eval.table {shlex.quote(self.config.hydra.sweep.dir)}", file=sys.stderr)

    def split_arguments(self, overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:  # type: ignore[override]
        """The combinations that can be, in batches; the folder of the sweep is made as soon as there is one.

        Prints the others. Raises Hydra's exception if there is no other, if all would write into one folder, and for
        every other mistake.
        """
        (combinations,) = super().split_arguments(overrides, None)
        reasons = [self._left_out(combination) for combination in combinations]
        possible = [combination for combination, reason in zip(combinations, reasons, strict=True) if reason is None]
        if not possible:
            self._compose(combinations[0])
        shared = next((word for word in possible[0] if re.match(r"run_dir=(?!.*\$\{)", word)), None)
        if shared and len(possible) > 1 and all(shared in combination for combination in possible):
            raise HydraException(f"{shared} would be the folder of every job; a sweep's is hydra.sweep.dir=FOLDER")
        for combination, reason in zip(combinations, reasons, strict=True):
            if reason is not None:
                print(f"left out: {' '.join(filter_overrides(combination))}, as {reason}", file=sys.stderr)
        self._own_folder([list(filter_overrides(combination)) for combination in possible])
        return list(self.split_overrides_to_chunks(possible, max_batch_size))

    def validate_batch_is_legal(self, batch: Any) -> None:
        """Nothing is left to do: `split_arguments` composed every combination."""

    def _left_out(self, combination: list[str]) -> str | None:
        """Why there can be no job of these options; None if there can."""
        try:
            self._compose(combination)
        except ConfigCompositionException as error:
            if reason := of_other_choices(error, combination):
                return reason
            raise
        return None

    def _compose(self, combination: list[str]) -> None:
        assert self.hydra_context is not None
        assert self.config is not None
        self.hydra_context.config_loader.load_sweep_config(self.config, combination)

    def _own_folder(self, jobs: list[list[str]]) -> None:
        """The folder of this sweep, of which every job is told: the newest one of the same jobs that are not all done,
        unless another process has it, else a new one that is named by the time.
        """
        assert self.config is not None
        sweep, about = self.config.hydra.sweep, {"command": self.config.hydra.job.config_name, "jobs": jobs}
        if "${now:" not in OmegaConf.to_container(sweep, resolve=False)["dir"]:  # type: ignore[index, call-overload]
            return
        wanted = Path(sweep.dir).expanduser()
        earlier = sorted(wanted.parent.glob(f"*/{FILE}"), reverse=True)
        anew = any("resume=false" in job for job in jobs)
        found = None if anew else next((path.parent for path in earlier if self._goes_on(path, about)), None)
        if found is None:
            found = make_new(wanted)
            self._held.enter_context(FileLock(found / ".lock"))
            write_atomically(found / FILE, json.dumps(about, indent=1) + "\n")
        else:
            print(f"going on with {found}", file=sys.stderr)
        with open_dict(self.config):
            sweep.dir = str(found)
            self.config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(sweep.dir)}")
        # it may have taken the folder's name already
        self._context["config"] = self.config
        self.launcher = Plugins.instance().instantiate_launcher(**self._context)

    def _goes_on(self, path: Path, about: dict[str, Any]) -> bool:
        """Whether the file is of a sweep of these jobs that are not all done, and this process could take it."""
        folders = [path.with_name(str(job)) for job in range(len(about["jobs"]))]
        try:
            if read_json(path) != about or all(read_status(each).get("status") == "done" for each in folders):
                return False
        except ValueError as error:
            print(f"warning: {error}; no sweep goes on in its folder", file=sys.stderr)
            return False
        with suppress(Timeout):
            self._held.enter_context(FileLock(path.with_name(".lock"), timeout=0))
            return True
        return False
