"""Options of class, guidance and clipping that contradict each other or the network are refused."""

from pathlib import Path
from typing import Any

import published_network
import pytest

from models.sampling.options import EpsOptions, check_eps, given

SDE = {"name": "vp_linear", "beta_0": 0.1, "beta_1": 20.0, "t_0": 1e-3, "T": 1.0}
IMAGES = {"image_size": 8, "image_channels": 1}
CONDITIONAL: dict[str, Any] = {"model": IMAGES | {"num_classes": 10, "null_class": True}, "sde": SDE}
PLAIN: dict[str, Any] = {"model": IMAGES | {"num_classes": 0, "null_class": False}, "sde": SDE}


@pytest.mark.parametrize(
    ("network", "options", "said"),
    [
        (PLAIN, {"label": 0}, "label must be null: this network was trained without classes"),
        (CONDITIONAL, {"label": 10}, "label must be 0 to 9 (model.num_classes=10), got 10"),
        (
            PLAIN,
            {"guidance": 2.0},
            "guidance=2 needs a network trained with model.null_class=true, or guidance_network=",
        ),
        (CONDITIONAL, {"guidance_rescale": 0.7}, "guidance_rescale=0.7 needs guidance: give its weight too"),
        (CONDITIONAL, {"guidance_parallel": 0.0}, "guidance_parallel=0.0 needs guidance"),
        (CONDITIONAL, {"guidance_network": "net"}, "guidance_network=net needs guidance"),
        (CONDITIONAL, {"guidance": 2.0, "guidance_interval": [2.0, 1.0]}, "guidance_interval must be two noise levels"),
        (CONDITIONAL, {"guidance": 2.0, "guidance_interval": [1.0]}, "the lower first, as [0.2,2], got [1.0]"),
        (CONDITIONAL, {"guidance": 2.0, "guidance_rescale": 1.1}, "guidance_rescale must be from 0 to 1, got 1.1"),
        (CONDITIONAL, {"guidance": 2.0, "guidance_parallel": -1.0}, "guidance_parallel must be 0 or more, got -1"),
        (CONDITIONAL, {"guidance": 2.0, "guidance_norm": 0.0}, "guidance_norm must be above 0, got 0"),
        (CONDITIONAL, {"guidance": float("nan")}, "guidance must be finite, got nan"),
        (PLAIN, {"threshold": 0.0}, "threshold must be a percentile in (1, 100]"),
        (PLAIN, {"threshold": 99.0, "clip": True}, "without clip=true, as it clips too; got 99"),
    ],
)
def test_refusals(network: dict[str, Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as refused:
        check_eps(EpsOptions(**options), network)
    assert said in str(refused.value)


def test_the_worse_network_is_of_the_same_images_and_diffusion(tmp_path: Path) -> None:
    folder = published_network.write(tmp_path / "net", "model.num_classes=10")
    options = EpsOptions(guidance=2.0, guidance_network=str(folder))
    found = check_eps(options, CONDITIONAL)
    assert found is not None
    assert found.path == folder
    for network, said in (
        (PLAIN, "model.num_classes=10, and the network it is to guide 0"),
        (CONDITIONAL | {"model": CONDITIONAL["model"] | {"image_size": 28}}, "model.image_size=8, and the network"),
        (CONDITIONAL | {"sde": SDE | {"beta_1": 10.0}}, "was trained under another diffusion"),
    ):
        with pytest.raises(ValueError, match=said):
            check_eps(options, network)
    unconditional = published_network.write(tmp_path / "plain")
    assert check_eps(EpsOptions(guidance=2.0, guidance_network=str(unconditional)), CONDITIONAL) is not None
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        check_eps(EpsOptions(guidance=2.0, guidance_network=str(tmp_path)), CONDITIONAL)


def test_a_weight_of_0_is_given() -> None:
    assert given(EpsOptions(guidance=0.0, label=0)) == {"guidance": 0.0, "label": 0}
