"""Commands that cannot work: one or two clear lines, the right exit code, and nothing left behind."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, environment, run_here
from jobs import job
from PIL import Image

import sample
import train
from runs import cli, hints

COMMANDS = {"train": (train.main, train.TrainJob), "sample": (sample.main, sample.SampleJob)}


def refused(*arguments: str, script: str = "train.py", cwd: Path, code: int = 2) -> str:
    """What the command prints, having checked that it is short, not a traceback, and ends with the exit code."""
    result = run_here(script, *arguments, cwd=cwd)
    assert result.returncode == code, result.stderr
    return only_line(result.stderr)


def only_line(printed: str) -> str:
    lines = printed.strip().splitlines()
    assert 1 <= len(lines) <= 2, printed
    assert lines[-1].startswith("error: ")
    return lines[-1].removeprefix("error: ")


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """What a command answers to options that it refuses, in this process, as no command starts JAX before that."""
    root = logging.getLogger()
    monkeypatch.setattr(
        logging, "shutdown", lambda _: None
    )  # by which Hydra closes every handler, and so pytest's files
    monkeypatch.setattr(root, "handlers", [])  # the command sets its own
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.chdir(tmp_path)

    def ask(command: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [f"{command}.py", *arguments, "logger=none"])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        main, options = COMMANDS[command]
        with pytest.raises(SystemExit) as ended:
            cli.run(main, command, options)
        assert ended.value.code == 2
        assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"
        return only_line(capsys.readouterr().err)

    return ask


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("train.batchsize=8", "did you mean train.batch_size?"),
        ("sampler.order=three", "sampler.order=three"),
        ("sampler=dpm9", "unknown sampler 'dpm9'"),
        ("sampler.order=9", "order must be 0 (DDIM) to 6, got 9"),
        ("sampler.nfe=0", "sampler.nfe must be at least 1, got 0"),
        ("sampler=rho_rk sampler.nfe=10", "use sampler.nfe=9 or 12"),
        ("sde.t_0=2", "t_0 must lie below T"),
        ("train.steps=0", "train.steps must be at least 1"),
        ("train.fid_samples=1", "train.fid_samples must be at least 2, got 1"),
        ("optimizer.warmup_steps=-5", "optimizer.warmup_steps must be 0 or more, got -5"),
        ("optimizer.b1=1.5", "optimizer.b1 must be at least 0 and below 1, got 1.5"),
        ("train.ema_decay=nan", "train.ema_decay must be at least 0, got nan"),
        ("seed=-1", "seed must be from 0 to 4294967295, got -1"),
        ("train.steps=many", "train.steps=many is refused"),
        ("model.multipliers=2", "model.multipliers takes a list: write model.multipliers=[2]"),
        ("~model", "model has no value"),
        ("extractor=pixels", "extractor=pixels is for FIDs in training: add train.fid_every=STEPS"),
        ("distributed=slurm", "several processes need one folder that all can reach, and no sweep: give run_dir="),
    ],
)
def test_train_refuses(arguments: str, said: str, answer: Callable[..., str]) -> None:
    assert said in answer("train", *arguments.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("sampler=ddim sampler.order=2", "ddim has no order; dpm_solver, *, t_ab, *, tab3, unipc have"),
        ("sampler.lam=1", "t_ab has no lam; t_ab_sde has"),
        (
            "sampler=learned sampler.nfe=9",
            "learned has no nfe: calls and times are those of a table in a file, *.table",
        ),
        ("sampler=recommended sampler.ts=[1]", "recommended has no ts: solver and grid are chosen by the kind *"),
        ("experiment=demo_picture sampler.lam=1", "tab3 has no lam; t_ab_sde has"),
        (
            "-m sampler=ddim,euler sampler.order=2,3",
            "ddim has no order; dpm_solver, *, t_ab, *, tab3, unipc have",
        ),
        ("sde=ve sde.beta_0=1", "ve has no beta_0; sub_vp, vp_linear, vp_zero_snr have"),
    ],
)
def test_an_option_of_others_is_answered_with_them(arguments: str, said: str, answer: Callable[..., str]) -> None:
    assert fnmatch(answer("train" if "sde" in arguments.split("=")[0] else "sample", *arguments.split()), said)


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("nfe=10", "sampler.nfe"),
        ("optimizer.lr=1e-3", "optimizer.learning_rate"),
        ("lr=1e-3", "optimizer.learning_rate or extractor.learning_rate"),
        ("train.bs=8", "train.batch_size"),
        ("+train.bs=8", "train.batch_size"),
        ("steps=3", "train.steps or extractor.steps"),
        ("trian.batchsize=3", "train.batch_size"),
        ("model.dropuot=0.1", "model.dropout"),
        ("sampler.ordr=2", "sampler.order"),
        ("sampler.nfe.x=2", "sampler.nfe"),
        ("samplr=ddim", "sampler"),
        ("+samplr=ddim", "sampler"),
        ("Seed=1", "seed"),
    ],
)
def test_an_unknown_option_is_answered_with_the_nearest(option: str, meant: str, answer: Callable[..., str]) -> None:
    key = option.partition("=")[0].removeprefix("+")
    assert answer("train", option) == f"unknown option {key!r}; did you mean {meant}?"


def test_an_option_like_no_other_is_answered_with_what_its_group_has(answer: Callable[..., str]) -> None:
    has = "learning_rate, warmup_steps, cosine_decay, b1, b2, clip_norm"
    assert answer("train", "optimizer.zzz=1") == f"unknown option 'optimizer.zzz'; optimizer has {has}"
    assert answer("train", "+zzz=1") == "unknown option 'zzz'; --cfg job shows every option"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("sampler=ddmi", "ddim"),
        ("sampler=DDIM", "ddim"),
        ("sampler=tAB3", "tab3"),
        ("sampler=log-rho-ab", "log_rho_ab"),
        ("dataset=cifar", "cifar10"),
        ("dataset=fashionmnist", "fashion_mnist"),
        ("objective=minsnr", "min_snr"),
        ("experiment=demo_pic", "demo_picture"),
    ],
)
def test_an_unknown_choice_is_answered_with_the_nearest(typed: str, meant: str, answer: Callable[..., str]) -> None:
    group, choice = typed.split("=")
    assert answer("train", typed) == f"unknown {group} {choice!r}; did you mean {meant}?"


def test_a_choice_like_no_other_is_answered_with_the_choices_alone(answer: Callable[..., str]) -> None:
    there = sorted(file.stem for file in (ROOT / "conf" / "dataset").glob("*.yaml"))
    assert answer("train", "dataset=nosuch") == f"unknown dataset 'nosuch'; allowed: {', '.join(there)}"


SAMPLERS, DATASETS = (", ".join(hints.choices_of(group)) for group in ("sampler", "dataset"))
CHOOSE = "choose dataset=NAME, or dataset=images dataset.path=PATH"
LIST_OR_TEXT = "write a list as [A,B], or one text as 'run_dir=\"a,b\"'"
PLUGIN = "pip install -r requirements-cluster.txt has those of joblib, submitit and optuna"


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("+sampler=ddim", "a choice needs no +: write sampler=ddim"),
        ("sampler", "sampler has no value: write sampler=VALUE"),
        ("sampler=ddim,t_ab", "sampler=ddim,t_ab has several values: add -m to run each"),
        ("num_samples=range(1,3)", "num_samples=range(1,3) has several values: add -m to run each"),
        ("run_dir=a,b", f"run_dir=a,b has several values: add -m to run each, {LIST_OR_TEXT}"),
        ("dataset.name=x", f"dataset.name=x is a name without images: {CHOOSE}"),
        ("extractor.steps=5", "extractor.steps needs a choice of extractor: add extractor=NAME"),
        ("sampler=null", f"sampler=null is refused: sampler needs the name of a choice: {SAMPLERS}"),
        ("sampler=3", f"sampler=3 is refused: sampler needs the name of a choice: {SAMPLERS}"),
        (
            "dataset=null",
            f"dataset=null is refused: dataset needs the name of a choice: {DATASETS}, or leave dataset out",
        ),
        ("~distributed.mode", "~distributed.mode takes away what is needed: write distributed.mode=VALUE"),
        ("~sampler.nef", "unknown option 'sampler.nef'; did you mean sampler.nfe?"),
        ("~sampler.nfe", "~sampler.nfe takes away what is needed: write sampler.nfe=VALUE"),
        ("hydra/launcher=joblib_", f"hydra/launcher=joblib_ needs a plugin that is not installed; {PLUGIN}"),
        ("--config-name=x", "there is no x.yaml in conf/; leave out --config-name"),
        ("--nfe=10", "options have no dashes: write sampler.nfe=10 instead of --nfe"),
        ("--cfg=x", "argument --cfg/-c: invalid choice: 'x' (choose from 'job', 'hydra', 'all')"),
        ("logger.mode=maybe", "logger.mode must be auto or online or offline, got 'maybe'"),
        ("name=${name}", "name is refused: Recursive interpolation detected"),
        ("name=${oc.env:NOPE}", "name is refused: \"Environment variable 'NOPE' not found\""),
        ("experiment=mnist", "experiment=mnist is for another command: this one has no option 'train'"),
        ("experiment=cifar10_edm", "experiment=cifar10_edm is for another command: this one has no option 'model'"),
        ("name=${nosuch}", "${nosuch}, which name refers to, does not exist"),
    ],
)
def test_what_hydra_refuses_is_said_in_a_sentence(argument: str, said: str, answer: Callable[..., str]) -> None:
    assert answer("sample", argument) == said


def test_a_flag_and_its_value_are_answered_with_the_option(answer: Callable[..., str]) -> None:
    assert answer("sample", "--nfe", "10") == "options have no dashes: write sampler.nfe=10 instead of --nfe"


def test_a_path_of_special_characters_is_answered_with_the_quoted_form(answer: Callable[..., str]) -> None:
    said = "special characters need quotes within quotes, as in 'checkpoint=\"a=b\"'"
    assert answer("sample", "checkpoint=a=b") == f"cannot read checkpoint=a=b: {said}"


@pytest.mark.parametrize(("dataset", "same_as"), [("images", "unet"), ("mnist", "mnist"), ("cifar10", "ddpm_cifar10")])
def test_the_network_named_after_the_data_set_or_the_general_one(dataset: str, same_as: str) -> None:
    """A data set needs one file, since a network of its name is optional."""
    assert job("train", f"dataset={dataset}").model == job("train", f"model={same_as}").model


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dataset=images", "dataset.path=nowhere"], "nowhere"),
        (["dataset=mnist", "dataset.download=false", "dataset.data_dir=empty"], "empty"),
    ],
)
def test_train_refuses_data_that_is_not_there(arguments: list[str], said: str, tmp_path: Path) -> None:
    assert said in refused("logger=none", *arguments, cwd=tmp_path)


def test_sample_refuses_a_missing_checkpoint(tmp_path: Path) -> None:
    assert "gone" in refused("logger=none", "checkpoint=gone", script="sample.py", cwd=tmp_path)
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


def test_empty_image_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert "photos" in refused("logger=none", "dataset=images", "dataset.path=photos", cwd=tmp_path)


def test_mixed_image_sizes(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for size in (8, 16):
        Image.fromarray(np.zeros((size, size), np.uint8)).save(tmp_path / "photos" / f"{size}.png")
    message = refused("logger=none", "dataset=images", "dataset.path=photos", cwd=tmp_path)
    assert "dataset.image_size=" in message


def test_features_that_cannot_be_made_end_a_training_before_its_first_step(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((9, 8, 8), np.uint8))
    options = ["dataset=images", "dataset.path=x.npz", "extractor=classifier", "train.fid_every=4"]
    assert "has no labels, so no classifier can be trained" in refused("logger=none", *options, cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_classes_that_the_data_does_not_have(tmp_path: Path) -> None:
    assert "0 or 10" in refused("logger=none", "model.num_classes=7", cwd=tmp_path)


def test_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of a folder")
    assert "cannot write to" in refused("logger=none", "run_dir=file/run", cwd=tmp_path)


def test_help_says_what_there_is(tmp_path: Path) -> None:
    for script in ("train.py", "sample.py"):
        result = run_here(script, "--help", cwd=tmp_path)
        assert result.returncode == 0
        for group in ("dataset", "sampler", "extractor", "logger", "experiment"):
            choices = sorted(file.stem for file in (ROOT / "conf" / group).glob("*.yaml"))
            assert f"{group}: {', '.join(choices)}\n" in result.stdout
        assert "Examples" in result.stdout
        assert "Exit codes" in result.stdout
        assert not any(word in result.stdout for word in ("hydra/", "common", "_job"))


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("sd", {"sde=", "sde."}),
        ("sde=", {f"sde={file.stem}" for file in (ROOT / "conf" / "sde").glob("*.yaml")}),
        ("sampler.or", {"sampler.order="}),
        ("sampler=", {f"sampler={file.stem}" for file in (ROOT / "conf" / "sampler").glob("*.yaml")}),
        ("hydra=", {"hydra=config"}),
    ],
)
def test_completion_in_bash(typed: str, offered: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As bash asks for it once `eval "$(python train.py -sc install=bash)"` was typed."""
    monkeypatch.setenv("COMP_LINE", f"python train.py {typed}")
    result = run_here("train.py", "-sc", "query=bash")
    assert set(result.stdout.split()) == offered


def test_completion_is_installed_by_the_line_of_the_readme() -> None:
    line = 'eval "$(python train.py -sc install=bash)"'
    assert line in (ROOT / "README.md").read_text()
    ask = "COMP_LINE='python train.py sampler=tab' COMP_WORDS=(python train.py sampler=tab) COMP_CWORD=2"
    script = f'{line}; {ask}; hydra_bash_completion; echo "${{COMPREPLY[@]}}"'
    env = environment() | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(["bash", "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["sampler=tab1", "sampler=tab2", "sampler=tab3"]
