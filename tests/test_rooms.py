"""Imports go one way: train.py, sample.py -> eval -> models, runs -> deis, data, formats."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent
# what a module of each room may import from this repository
ALLOWED = {
    "deis": {"deis"},
    "formats": {"formats"},
    "data": {"data", "formats"},
    "models": {"models", "deis", "data", "formats"},
    "runs": {"runs", "deis", "data", "formats"},
    "eval": {"eval", "models", "runs", "deis", "data", "formats"},
}
SCRIPTS = {"train", "sample"}
# all that `pip install .` installs, and what single modules of it ask the user to add
DEIS_NEEDS = {"numpy", "scipy", "jaxtyping", "safetensors"} | {"jax", "torch", "diffrax", "diffusers"}


def imports(path: Path) -> set[str]:
    """Full names of what a file imports anywhere in it, modules and what is taken from them; relative ones resolved."""
    package = path.relative_to(REPO).with_suffix("").parts[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def modules(room: str) -> list[Path]:
    return sorted((REPO / room).rglob("*.py"))


def is_command(path: Path) -> bool:
    """Whether a file is run by its name: it has the block `if __name__ == "__main__":`."""
    tests = [ast.unparse(node.test) for node in ast.parse(path.read_text()).body if isinstance(node, ast.If)]
    return "__name__ == '__main__'" in tests


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_what_lies_below_it(room):
    assert modules(room), f"{room}/ has no module"
    for path in modules(room):
        ours = {name.split(".")[0] for name in imports(path)} & (ALLOWED.keys() | SCRIPTS | {"tests"})
        assert ours <= ALLOWED[room], f"{path.relative_to(REPO)} imports {sorted(ours - ALLOWED[room])}"


def test_no_module_imports_a_command():
    files = [*(REPO / f"{script}.py" for script in SCRIPTS), *(path for room in ALLOWED for path in modules(room))]
    commands = {".".join(path.relative_to(REPO).with_suffix("").parts) for path in files if is_command(path)}
    assert commands >= SCRIPTS | {"eval.fid", "models.convert"}
    for path in files:
        assert not imports(path) & commands, f"{path.relative_to(REPO)} imports a command"


def test_a_folder_holds_at_most_ten_modules_beside_its_packages():
    folders = [REPO, *(folder for room in (*ALLOWED, "tests") for folder in (REPO / room, *(REPO / room).rglob("*/")))]
    for folder in set(folders) - {REPO / "deis" / "tables"}:  # one file for each family of solvers
        names = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
        assert len(names) <= 10, f"{folder.relative_to(REPO)}/ holds {len(names)} modules: {', '.join(names)}"


def test_a_file_fits_one_reading():
    for path in [*REPO.glob("*.py"), *(path for room in (*ALLOWED, "tests") for path in modules(room))]:
        count = len(path.read_text().splitlines())
        assert count <= 300, f"{path.relative_to(REPO)} has {count} lines"


def test_deis_needs_only_what_it_installs():
    for path in modules("deis"):
        outside = {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names - {"deis"}
        assert outside <= DEIS_NEEDS, f"{path.relative_to(REPO)} imports {sorted(outside - DEIS_NEEDS)}"


def test_nothing_hides_the_builtin_eval():
    for path in [*REPO.glob("*.py"), *(path for room in (*ALLOWED, "tests") for path in modules(room))]:
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
    modules = {"a.b", "eval", "eval.inner", "eval.inner.e", "models.x"}
    assert imports(file) == modules | {"eval.c", "eval.inner.d", "eval.inner.e.f", "models.x.h"}


def test_a_command_is_known_by_its_last_lines(tmp_path):
    file = tmp_path / "x.py"
    file.write_text('import sys\nif __name__ == "__main__":\n    sys.exit(1)\n')
    assert is_command(file)
    file.write_text('def f():\n    return __name__ == "__main__"\n')
    assert not is_command(file)


def test_deis_builds_tables_without_jax_or_anything_of_the_outer_rooms():
    code = """
import sys
for name in ("jax", "flax", "hydra", "omegaconf", "tensorflow_datasets", "wandb", "torch", "optax"):
    sys.modules[name] = None
import deis
for sde in (deis.vp_linear(), deis.vp_cosine(), deis.ve(), deis.VPSDE(*deis.get_cos_alpha_fns(), 1e-3, 0.99)):
    for method in deis.tables.METHODS:
        assert deis.tables.build(sde, num_step=4, method=method).nfe >= 4
try:
    deis.get_sampler
except ImportError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "jax" in run.stdout
