"""Imports go one way: train.py, sample.py and eval's commands -> runs -> eval, models, data -> deis, formats."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent
ROOMS = {"deis", "formats", "eval", "models", "data", "runs"}
# what a module of each room may import from this repository
ALLOWED = {"deis": {"deis"}, "formats": {"formats"}, "runs": ROOMS}
ALLOWED |= {room: {room, "deis", "formats"} for room in ("eval", "models", "data")}
SCRIPTS = {"train", "sample"}
COMMANDS = {"eval/fid.py", "eval/likelihood.py", "eval/table.py", "eval/analysis.py"}  # scripts, as train.py is
# all that `pip install .` installs, and what single modules of it ask the user to add
DEIS_NEEDS = {"numpy", "scipy", "jax", "jaxtyping"} | {"torch", "diffrax"}


def imports(path: Path) -> set[str]:
    """Full names of what a file imports anywhere in it; relative imports resolved."""
    package = path.relative_to(REPO).with_suffix("").parts[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            names.add(".".join([*base, *([node.module] if node.module else [])]))
    return names


def modules(room: str) -> list[Path]:
    return sorted((REPO / room).rglob("*.py"))


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_what_lies_below_it(room):
    assert modules(room), f"{room}/ has no module"
    for path in modules(room):
        ours = {name.split(".")[0] for name in imports(path)} & (ROOMS | SCRIPTS | {"tests"})
        allowed = ROOMS if str(path.relative_to(REPO)) in COMMANDS else ALLOWED[room]
        assert ours <= allowed, f"{path.relative_to(REPO)} imports {sorted(ours - allowed)}"


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_no_module_imports_a_command(room):
    commands = {command.removesuffix(".py").replace("/", ".") for command in COMMANDS}
    for path in modules(room):
        assert not imports(path) & commands, f"{path.relative_to(REPO)} imports a command"


def test_deis_needs_only_what_it_installs():
    for path in modules("deis"):
        outside = {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names - {"deis"}
        assert outside <= DEIS_NEEDS, f"{path.relative_to(REPO)} imports {sorted(outside - DEIS_NEEDS)}"


def test_nothing_hides_the_builtin_eval():
    for path in [*REPO.glob("*.py"), *(path for room in (*ROOMS, "tests") for path in modules(room))]:
        statements = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import)]
        bound = {alias.name.split(".")[0] for node in statements for alias in node.names if not alias.asname}
        assert "eval" not in bound, f"{path.relative_to(REPO)}: write `from eval.metrics.frechet import ...`"


def test_the_arrows_are_seen(tmp_path, monkeypatch):
    """The reader of imports finds them in functions, behind TYPE_CHECKING and in relative form."""
    monkeypatch.setattr(sys.modules[__name__], "REPO", tmp_path)
    file = tmp_path / "eval" / "inner" / "x.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import a.b\nfrom .. import c\nfrom . import d\nfrom .e import f\ndef g():\n    from models.x import h\n"
    )
    assert imports(file) == {"a.b", "eval", "eval.inner", "eval.inner.e", "models.x"}


def test_deis_builds_tables_without_jax_or_anything_of_the_outer_rooms():
    code = """
import sys
for name in ("jax", "flax", "hydra", "omegaconf", "tensorflow_datasets", "wandb", "torch", "optax"):
    sys.modules[name] = None
import deis
for sde in (deis.vp_linear(), deis.vp_cosine(), deis.ve(), deis.VPSDE(*deis.get_cos_alpha_fns(), 1e-3, 0.99)):
    for method in deis.tables.METHODS:
        print(deis.tables.build(sde, num_step=4, method=method).nfe)
try:
    deis.get_sampler
except ImportError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[:6] == ["4", "4", "4", "4", "4", "12"]
    assert "jax" in run.stdout.split("\n")[-2]
