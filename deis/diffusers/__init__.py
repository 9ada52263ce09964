"""Every table as a scheduler of diffusers.

pipe.scheduler = deis.diffusers.TableScheduler.from_config(pipe.scheduler.config, method="t_ab")
"""

from deis.errors import needs

with needs("diffusers", "deis.diffusers"):
    import diffusers  # noqa: F401
    import torch  # noqa: F401

from deis.diffusers.scheduler import TableScheduler

__all__ = ["TableScheduler"]
