"""Hydra's sweeper for -m, without the combinations that cannot be, and with a folder of its own for every sweep.

Hydra takes plugins from packages of this name only; conf/hydra/sweeper/combinations.yaml names this one.
"""

import sys
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from hydra.core.utils import filter_overrides
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf, open_dict

from runs.folder import make_new
from runs.hints import of_other_choices, quoted


class Combinations(BasicSweeper):
    """Runs all combinations of the values, but for those of a choice with an option that only other choices have."""

    def split_arguments(self, overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:  # type: ignore[override]
        """The combinations that can be, in batches; the folder of the sweep is made as soon as there is one.

        Prints the others. Raises Hydra's exception if there is no other, and for every other mistake.
        """
        (combinations,) = super().split_arguments(overrides, None)
        reasons = [self._left_out(combination) for combination in combinations]
        possible = [combination for combination, reason in zip(combinations, reasons, strict=True) if reason is None]
        if not possible:
            self._compose(combinations[0])
        for combination, reason in zip(combinations, reasons, strict=True):
            if reason is not None:
                print(f"left out: {' '.join(filter_overrides(combination))}, as {reason}", file=sys.stderr)
        self._own_folder()
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

    def _own_folder(self) -> None:
        """Make a folder that is named by the time, so that no other sweep has it, and tell every job."""
        assert self.config is not None
        sweep = self.config.hydra.sweep
        if "${now:" in OmegaConf.to_container(sweep, resolve=False)["dir"]:  # type: ignore[index, call-overload]
            with open_dict(self.config):
                sweep.dir = str(make_new(Path(sweep.dir)))
                self.config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(sweep.dir)}")
