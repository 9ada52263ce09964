"""The error handler answers every exception of Hydra and OmegaConf in one sentence, and never fails itself."""

import itertools
import sys

import hydra.errors
import omegaconf.errors
import pytest

import sample
from runs.hints import sentence

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
