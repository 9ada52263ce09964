"""What is wrong with a command line, in one sentence that ends with the nearest right thing to type."""

import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import is_dataclass
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

CONF = Path(__file__).parent.parent / "conf"

NO_OPTION = r"(?:Could not override|Could not delete from config\.|Key(?= '\S+' is not in struct)) '([^']+)'"

# what Hydra and OmegaConf say, and what is said instead
REWORDED = {
    r"Error merging override ~([^\n=]+)": "~{} takes away what is needed: write {}=VALUE",
    r"Error merging override ([^\n=]+)=([^\n]*)\n[^\n]* is not a ListConfig": "{0} takes a list: write {0}=[{1}]",
    r"Error merging override ([^\n]+)\n([^\n]+)": "{} is refused: {}",
    r"Multiple values for \S+\. .*'override (\S+): ([^']*)'": "a choice needs no +: write {}={}",
    r"Error parsing override '([^\n]+)'\s+missing EQUAL": "{} has no value: write {}=VALUE",
    r"Sweep parameters '([^\n]+)' requires --multirun": "{} has several values: add -m to run each",
    r"[Mm]issing mandatory value: .*\s+full_key: (\S+)": "{} has no value: write {}=VALUE",
    r"Interpolation key '([^\n]+)' not found\s+full_key: (\S+)": "${{{}}}, which {} refers to, does not exist",
    r"\w+ raised while resolving interpolation: ([^\n]+)\s+full_key: (\S+)": "{1} is refused: {0}",
    r"([^\n]+)\s+full_key: (\S+)": "{1} is refused: {0}",
    r"Cannot find primary config '([^\n]+?)'": "there is no {}.yaml in conf/; leave out --config-name",
}


def sentence(error: Exception, config_name: str, job: type) -> str:
    """What Hydra or OmegaConf refused of the options of conf/<config_name>.yaml, whose dataclass is `job`."""
    text = f"{error}\n{error.__cause__ or ''}"
    if recipe := re.search(r"In 'experiment/([^']+)'.*?(?:Key|override) '([^']+)'", text, re.DOTALL):
        return f"experiment={recipe[1]} is for another command: this one has no option {recipe[2]!r}"
    if option := re.search(NO_OPTION, text):
        return unknown_option(option[1], config_name, job)
    if plugin := re.search(r"Could not (?:find|load) '(hydra/(?:launcher|sweeper))/([^']+)'", text):
        needs = "pip install -r requirements-cluster.txt has those of joblib, submitit and optuna"
        return f"{plugin[1]}={plugin[2]} needs a plugin that is not installed; {needs}"
    if choice := re.search(r"Could not find '([^']+)/([^'/]*)'\s+Available options in '[^']+':((?:\n\t\S+)+)", text):
        likeness, nearest = max((_likeness(choice[2], name), name) for name in choice[3].split())
        hint = f"did you mean {nearest}?" if likeness >= 0.6 else f"allowed: {', '.join(choice[3].split())}"
        return f"unknown {choice[1]} {choice[2]!r}; {hint}"
    if several := re.search(r"Ambiguous value for argument '([^\n=]+)=([^\n]*)'", text):
        key, value = several.groups()
        text_or_list = "" if choices_of(key) else f", write a list as [A,B], or one text as {option_of(key, value)}"
        return f"{key}={value} has several values: add -m to run each{text_or_list}"
    if isinstance(error, OverrideParseException) and "=" in error.override:
        key, _, value = error.override.partition("=")
        form = option_of(key, value)
        return f"cannot read {error.override}: special characters need quotes within quotes, as in {form}"
    if not isinstance(error, HydraException | OmegaConfBaseException) and (found := _wrong_choice(config_name)):
        return found
    return reworded(text) or type(error).__name__


def reworded(text: str) -> str:
    """A message of Hydra or OmegaConf in one sentence, without the names of their classes."""
    for pattern, words in REWORDED.items():
        if found := re.search(pattern, text):
            return " ".join(words.format(*found.groups(), *found.groups()).split())
    return " ".join(text.split())


def option_of(key: str, value: str) -> str:
    """KEY=VALUE as it is typed in a shell, quoted for it and for Hydra if any character of the text asks for it."""
    plain = re.fullmatch(r"[\w./:@%+-]+", value, re.ASCII)
    return f"{key}={value}" if plain else shlex.quote(f"{key}={quoted(value)}")


def quoted(text: str) -> str:
    """A text as Hydra reads it from an option, whatever its characters."""
    return QuotedString(text.replace("${", "\\${"), Quote.double).with_quotes()


def refused_flag(flag: str, value: str, config_name: str, job: type) -> str:
    """What to type instead of the flag --KEY; value: what followed it."""
    key = flag.lstrip("-")
    meant = _closest(key, _known_options(config_name, job)) or [key]
    return f"options have no dashes: write {' or '.join(f'{name}={value}' for name in meant)} instead of {flag}"


def of_other_choices(error: Exception, combination: Iterable[str]) -> str | None:
    """The choice that has no such option, though others of its group do; None if that is not what `error` is about.

    combination: the options of a job, as KEY=VALUE.
    """
    option = re.search(NO_OPTION, str(error))
    if option is None:
        return None
    group, _, word = option[1].rpartition(".")
    choice = dict(text.partition("=")[::2] for text in combination).get(group)
    having = [other for other in choices_of(group) if word in _options(group, other)]
    return f"{choice} has no {word}" if choice and having else None


def _wrong_choice(config_name: str) -> str | None:
    """What was typed that is no choice of its group, or changes an option of a group of which none is chosen.

    Hydra answers both with exceptions of its own code, which name no option.
    """
    chosen, default = _chosen(config_name), _defaults(CONF / f"{config_name}.yaml")
    for key, value in _typed().items():
        group = key.rpartition(".")[0]
        if choices_of(key) and value not in choices_of(key):
            leave_out = f", or leave {key} out" if key in default and default[key] is None else ""
            return (
                f"{key}={value} is refused: {key} needs the name of a choice: {', '.join(choices_of(key))}{leave_out}"
            )
        if choices_of(group) and chosen.get(group) is None:
            return f"{key} needs a choice of {group}: add {group}=NAME"
    return None


def unknown_option(key: str, config_name: str, job: type) -> str:
    """An option that is not there: which choices have it, or why one alone has not, or else the likeliest meant."""
    group, _, word = key.rpartition(".")
    if having := [choice for choice in choices_of(group) if word in _options(group, choice)]:
        chosen = (_chosen(config_name).get(group) or "").split(",")
        lacking = next((choice for choice in chosen if choice not in having), "this one")
        if 2 * len(having) > len(choices_of(group)) and (file := CONF / group / f"{lacking}.yaml").is_file():
            first_line = file.read_text().partition("\n")[0].strip("# .")
            return f"{lacking} has no {word}: {first_line[0].lower()}{first_line[1:]}"
        return f"{lacking} has no {word}; {', '.join(having)} {'have' if len(having) > 1 else 'has'}"
    known = _known_options(config_name, job)
    if key in known:
        return f"{key} needs the name of a choice: {', '.join(choices_of(key))}"
    if close := _closest(key, known):
        return f"unknown option {key!r}; did you mean {' or '.join(close)}?"
    if siblings := [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == group != ""]:
        return f"unknown option {key!r}; {group} has {', '.join(siblings)}"
    return f"unknown option {key!r}; --cfg job shows every option"


def fields_of(job: type) -> dict[str, list[str]]:
    """The options of a command, each with those of its group: none where its type is not a dataclass."""
    hints = get_type_hints(job)
    groups = {name: next(filter(is_dataclass, (hint, *get_args(hint))), None) for name, hint in hints.items()}
    return {name: [*get_type_hints(group)] if group else [] for name, group in groups.items()}


def _known_options(config_name: str, job: type) -> list[str]:
    """Every option of a command as KEY or GROUP.KEY, those of all choices where the group has no dataclass."""
    known = [*_defaults(CONF / f"{config_name}.yaml")]
    for name, fields in fields_of(job).items():
        keys = fields or [key for choice in choices_of(name) for key in _options(name, choice)]
        known += [name, *(f"{name}.{key}" for key in keys)]
    return list(dict.fromkeys(known))


def _closest(key: str, known: list[str]) -> list[str]:
    """The likeliest options: in the group that was typed, else by their last word wherever it is, else as a whole."""
    group, _, word = key.rpartition(".")

    def best(options: Iterable[str]) -> list[str]:
        scores = {name: _likeness(word, name.rpartition(".")[2]) for name in options}
        highest = max(scores.values(), default=0.0)
        return [name for name, score in scores.items() if score == highest >= 0.6]

    within = best(name for name in known if group and name.startswith(f"{group}."))
    anywhere = best(known)
    similar_group = [name for name in anywhere if _likeness(group, name.rpartition(".")[0]) >= 0.6]
    whole = [name for name in known if SequenceMatcher(None, key, name).ratio() >= 0.9]
    return within or similar_group or anywhere or whole[:1]


def _likeness(typed: str, name: str) -> float:
    """3 for equal but for case and punctuation, 2 for initials or letters in another order, 1 and more for a part or
    an abbreviation of the name, and below 1 the share of letters in common."""
    a, b = (re.sub(r"[\W_]", "", text).lower() for text in (typed, name))
    share = SequenceMatcher(None, a, b).ratio()
    if a == b:
        return 3
    if sorted(a) == sorted(b) or (len(a) > 1 and a == "".join(word[:1] for word in name.lower().split("_"))):
        return 2
    return 1 + share if len(a) > 2 and (a in b or re.match(".*".join(a), b)) else share


def choices_of(group: str) -> list[str]:
    """The choices that conf/ has for a group; none if there is no such group."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml")) if re.fullmatch(r"\w+", group) else []


def _options(group: str, choice: str) -> list[str]:
    """The options that conf/<group>/<choice>.yaml has, with those of the files that it starts from."""
    found = _read(CONF / group / f"{choice}.yaml")
    parents = [parent for parent in found.get("defaults", []) if isinstance(parent, str) and parent != "_self_"]
    inherited = [key for parent in parents for key in _options(group, parent)]
    return [*inherited, *(key for key in found if key != "defaults")]


@cache
def _read(file: Path) -> dict[str, Any]:
    """The content of a file of conf/; not to be changed."""
    return yaml.safe_load(file.read_text()) or {}


def _chosen(config_name: str) -> dict[str, str]:
    """The choice of each group: by default, by an experiment, on the command line; a sweep's, separated by commas."""
    typed = _typed()
    recipe = _defaults(CONF / "experiment" / f"{typed.get('experiment')}.yaml")
    return _defaults(CONF / f"{config_name}.yaml") | recipe | typed


def _typed() -> dict[str, str]:
    """The options on the command line."""
    return {key: value for key, equals, value in (arg.partition("=") for arg in sys.argv[1:]) if equals}


def _defaults(file: Path) -> dict[str, Any]:
    """The group: choice entries of a file's defaults list, Hydra's own left out."""
    entries = _read(file).get("defaults", []) if file.is_file() else []
    pairs = [pair for entry in entries if isinstance(entry, dict) for pair in entry.items()]
    named = {group.removeprefix("override ").removeprefix("/"): choice for group, choice in pairs}
    return {group: choice for group, choice in named.items() if not group.startswith("hydra/")}
