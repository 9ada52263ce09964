"""Files of diffusers' weights: those of its training script, checkpoint-500/unet and unet_ema, a variant, parts."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models.published.diffusers import read_diffusers
from models.published.translate import flat

GOLDEN = Path(__file__).parents[2] / "fixtures" / "unet2d"
WEIGHTS, CONFIG, SCHEDULER = "diffusion_pytorch_model.safetensors", "config.json", "scheduler_config.json"
BOOKKEEPING = {"decay": 0.9999, "min_decay": 0.0, "optimization_step": 500, "update_after_step": 0}
BOOKKEEPING |= {"use_ema_warmup": True, "inv_gamma": 1.0, "power": 0.75}


def change(path: Path, **options: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint whose unet/ has the golden weights times 2, and unet_ema/ the golden weights."""
    (tmp_path / "scheduler").mkdir()
    shutil.copy(GOLDEN / SCHEDULER, tmp_path / "scheduler")
    saved = tmp_path / "checkpoint-500"
    for name in ("unet", "unet_ema"):
        shutil.copytree(GOLDEN, saved / name, ignore=shutil.ignore_patterns(SCHEDULER))
    doubled = {name: 2 * tensor for name, tensor in load_file(GOLDEN / WEIGHTS).items()}
    save_file(doubled, saved / "unet" / WEIGHTS)
    change(saved / "unet_ema" / CONFIG, **BOOKKEEPING)
    return saved


@pytest.mark.parametrize(("source", "factor"), [(".", 1), ("unet_ema", 1), ("unet", 2)])
def test_the_average_is_taken_where_it_is_not_named(source: str, factor: float, saved: Path) -> None:
    found, expected = read_diffusers(saved / source), read_diffusers(GOLDEN)
    assert (found.model, found.sde) == (expected.model, expected.sde)
    assert found.source == str(saved / ("unet" if factor == 2 else "unet_ema") / WEIGHTS)
    ours, theirs = flat(found.params), flat(expected.params)
    assert all(np.array_equal(ours[name], factor * theirs[name]) for name in theirs)


def test_without_a_scheduler_the_sentence_says_what_to_write(saved: Path) -> None:
    (saved.parent / "scheduler" / SCHEDULER).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"unet_ema/scheduler_config\.json does not exist, and nothing else says"
    ):
        read_diffusers(saved / "unet_ema")


def test_long_lists_are_not_printed(saved: Path) -> None:
    change(saved.parent / "scheduler" / SCHEDULER, beta_start=[0.1] * 1000)
    with pytest.raises(ValueError, match=r"beta_start must be .*, got \[0\.1, 0\.1, 0\.1 and 997 more\]"):
        read_diffusers(saved)
    change(saved / "unet_ema" / CONFIG, block_out_channels=[4] * 1000, norm_num_groups=3)
    with pytest.raises(ValueError, match=r"down_block_types must be 1000, as many as block_out_channels"):
        read_diffusers(saved)


def test_weights_may_be_a_variant_or_cut_into_parts(tmp_path: Path) -> None:
    folder, name = Path(shutil.copytree(GOLDEN, tmp_path / "ddpm")), WEIGHTS.removesuffix(".safetensors")
    whole, expected = load_file(folder / WEIGHTS), flat(read_diffusers(GOLDEN).params)

    def is_as_expected() -> bool:
        found = flat(read_diffusers(folder).params)
        return all(np.array_equal(found[key], tensor) for key, tensor in expected.items())

    (folder / WEIGHTS).rename(folder / f"{name}.fp16.safetensors")
    assert is_as_expected()
    save_file(whole, folder / f"{name}.ema.safetensors")
    with pytest.raises(ValueError, match=rf"{name}.ema.safetensors, {name}.fp16.safetensors, and must have one"):
        read_diffusers(folder)
    for form in ("{}.fp16-{}", "{}-{}.fp16", "{}-{}"):  # the last is no variant, and comes before all others
        for file in folder.glob("*.safetensors") if form != "{}-{}" else ():
            file.unlink()
        for i, number in enumerate(("00001-of-00002", "00002-of-00002")):
            part = {key: whole[key] if form == "{}-{}" else whole[key] + 1 for key in sorted(whole)[i::2]}
            save_file(part, folder / f"{form.format(name, number)}.safetensors")
        assert is_as_expected() == (form == "{}-{}")
