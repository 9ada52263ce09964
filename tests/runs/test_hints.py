"""The error handler answers every exception of Hydra and OmegaConf in one sentence, and never fails itself."""

import itertools
import subprocess
import sys

import hydra.errors
import omegaconf.errors
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from jobs import job

import sample
from runs.errors import ConfigError
from runs.hints import option_of, sentence

BASES = (hydra.errors.HydraException, omegaconf.errors.OmegaConfBaseException)
FOUND = [
    each for module in (hydra.errors, omegaconf.errors) for each in vars(module).values() if isinstance(each, type)
]
# and what their code raises by accident, as its assertions
CLASSES = [*(each for each in FOUND if issubclass(each, BASES)), AssertionError, KeyError, TypeError, ValueError]

# every form of message that is looked for, what is cut short, and what is none of them
MESSAGES = [
    "",
    "something\nof two lines",
    "Could not override 'sampler.order'.\nKey 'order' is not in struct",
    "Could not override '..nfe'",
    "Could not override '/etc.x'",
    "Key 'a.b.c' is not in struct\n    full_key: a.b.c\n    object_type=dict",
    "Key '' is not in struct",
    "In 'experiment/mnist': Could not override 'train.steps'",
    "In 'sample': Could not find 'sampler/ddmi'\n\nAvailable options in 'sampler':\n\tddim\n\teuler\n",
    "In 'sample': Could not find 'sampler/ddmi'",
    "In 'hydra/config': Could not find 'hydra/launcher/joblib'\n\nAvailable options in 'hydra/launcher':\n\tbasic",
    "Ambiguous value for argument 'sampler=ddim,t_ab'\n1. To use it as a list",
    "Error merging override sampler.order=three\nValue 'three' of type 'str' could not be converted to Integer",
    "Interpolation key 'b' not found\n    full_key: name",
    "Missing mandatory value: seeds\n    full_key: seeds",
    "Unexpected type for root: NoneType",
    "Config group override must be a string or a list. Got NoneType",
    "{} {0} {x}",
]


def test_every_class_is_there() -> None:
    """So that the next test is known to see what these libraries have."""
    names = {each.__name__ for each in CLASSES}
    assert names >= {"OverrideParseException", "MissingConfigException", "ConfigKeyError", "GrammarParseError"}
    assert len(names) > 20


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_is_one_sentence(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    typed = [
        "sampler.nfe=3",
        "sampler=3",
        "=",
        "a",
        "--x",
        "experiment=../a",
        "sampler=ddim,t_ab",
        "dataset.x=",
        "a.b.c=(",
    ]
    for message, argument in zip(MESSAGES, itertools.cycle(typed), strict=False):
        monkeypatch.setattr(sys, "argv", ["sample.py", argument])
        error = kind(argument, message) if kind is hydra.errors.OverrideParseException else kind(message)
        error.__cause__ = ValueError(message)
        said = sentence(error, "sample", sample.SampleJob)
        assert said, repr(error)
        assert "\n" not in said


UNREADABLE = ["a(b", "a)", "a=b", "a[b]", "a'b", 'a"b', '"a', "~/a", "/no/é", "a&b", "a#b", "{a", "[a", "a b;c", "!a"]


@pytest.mark.parametrize("path", UNREADABLE)
def test_a_path_that_hydra_cannot_read_is_answered_with_the_quoted_form(path: str) -> None:
    with pytest.raises(hydra.errors.OverrideParseException) as raised:
        OverridesParser.create().parse_overrides([f"checkpoint={path}"])
    assert sentence(raised.value, "sample", sample.SampleJob).endswith(f", as in {option_of('checkpoint', path)}")


@pytest.mark.parametrize("path", [*UNREADABLE, "a\\b", "a\\", "a\\'b", "a,b", "${b}", "a b", "a(b)", "/plain/path-1.0"])
def test_the_quoted_form_means_the_path_once_a_shell_has_read_it(path: str) -> None:
    command = ["sh", "-c", f"printf %s {option_of('checkpoint', path)}"]
    typed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert job("sample", typed).checkpoint == path


def test_an_address_is_no_folder() -> None:
    assert job("train", "init=hf://owner/name").init == "hf://owner/name"
    for option in ("run_dir=gs://bucket/run", "output_root=hf://owner/name", "dataset.data_dir=gs://bucket/data"):
        with pytest.raises(ConfigError, match=f"{option} is an address: give a folder"):
            job("train", option)
