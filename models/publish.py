"""Publish a network or a learned table: a folder with its weights and a card, here or on the Hugging Face Hub.

    python -m models.publish SOURCE DEST --results FOLDER --license apache-2.0

SOURCE is the folder of a training run, or of one of its checkpoints, whose EMA parameters are taken, a published or
converted network, or the file of a table as eval.learn writes it. DEST is hf://owner/name, or a folder to make. The
card says how it was trained and what was measured, with the names of the numbers, and shows images.
"""

if not __package__:  # python models/publish.py, which finds no other package of the repository
    raise SystemExit("error: this command is typed as python -m models.publish")

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import deis
from formats.files import read_json, require_empty
from formats.tables import markdown_table
from models.checkpoints import checkpoint, hub
from models.published.network import described, read_checkpoint, read_published, write_published

_KEPT = ("recipe.json", "recipe.yaml", "metrics.jsonl", "loss.png", "classifier.npz", "statistics.npz")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments and return its exit code, 2 for an error, which is said in one sentence."""
    parser = argparse.ArgumentParser(
        prog="python -m models.publish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("dest", metavar="DEST", help="hf://owner/name, or a folder to make")
    parser.add_argument(
        "--results",
        nargs="*",
        default=[],
        metavar="FOLDER",
        help="what was measured: its numbers and grid",
    )
    parser.add_argument("--license", default="other", help="as the Hub names it: apache-2.0, mit, cc-by-4.0, ...")
    parser.add_argument("--private", action="store_true", help="a repository of the Hub that only you see")
    args = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "published"
            gather(hub.local(args.source), folder, args.dest, [Path(path) for path in args.results], args.license)
            _deliver(folder, args.dest, args.private)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"published at {args.dest}")
    return 0


def gather(source: Path, folder: Path, dest: str, results: Sequence[Path], license_name: str) -> None:
    """Write all that is published into `folder`. Raises ValueError or FileNotFoundError for what cannot be read."""
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist")
    measured = [read_json(path / "result.json" if path.is_dir() else path) for path in results]
    if source.is_file():
        title, body = _table(source, folder, dest)
    else:
        title, body = _network(source, folder, dest)
    grids = [path / "grid.png" for path in results if (path / "grid.png").is_file()]
    grids += sorted(checkpoint.locate(source)[0].parent.glob("samples_*.png"))[-1:] if source.is_dir() else []
    if grids:
        shutil.copy(grids[0], folder / "grid.png")
    head = ["---", f"license: {license_name}", "library_name: deis-sampler", "tags: [diffusion, deis]", "---"]
    parts = [*head, "", f"# {title}", "", *body, "", *_numbers(measured)]
    parts += ["", "![images](grid.png)"] if grids else []
    (folder / "README.md").write_text("\n".join(parts) + "\n")


def _network(source: Path, folder: Path, dest: str) -> tuple[str, list[str]]:
    """(title, lines of the card); writes the network, and what belongs to it, into `folder`."""
    checkpoints, step = checkpoint.locate(source)
    network = read_published(source) if step is None else read_checkpoint(checkpoints, step)
    write_published(folder, network)
    run = checkpoints.parent
    for name in _KEPT:
        if (run / name).is_file():
            shutil.copy(run / name, folder / name)
    if step is not None:
        (folder / "recipe.json").write_text(json.dumps(checkpoint.read_config(checkpoints, step), indent=2) + "\n")
    recipe = next((name for name in ("recipe.json", "recipe.yaml") if (folder / name).is_file()), None)
    data = (network.dataset or {}).get("name") or "unknown data"
    lines = ["```", described(network), f"data        {data}", "```", ""]
    lines += [f"All options of its training are in [{recipe}]({recipe}).", ""] if recipe else []
    lines += ["```", f"python sample.py checkpoint={dest}", "```"]
    return f"A diffusion model of {data}", lines


def _table(source: Path, folder: Path, dest: str) -> tuple[str, list[str]]:
    """(title, lines of the card); writes the table into `folder`."""
    table = deis.Table.load(source)
    folder.mkdir(parents=True)
    table.save(folder / "table.safetensors")
    about = [f"- {name}: {value}" for name, value in table.about.items() if name != "sde"]
    lines = [
        f"A solver of {table.nfe} network calls, for the network and the diffusion that it was made for.",
        "",
        *about,
    ]
    lines += ["", "```", f"python sample.py sampler=learned sampler.table={dest}", "```"]
    return f"{table.name}: a learned solver", lines


def _numbers(measured: Sequence[dict[str, Any]]) -> list[str]:
    """A table of what sample.py, eval.learn or eval.fid measured, each number by its name. Raises ValueError."""
    try:
        found = [solver for result in measured for solver in result.get("solvers", [result])]  # several of eval.learn
        rows = [
            [r.get("sampler") or r.get("table", "-"), str(r.get("nfe", "-")), r[f"{key}_name"], f"{r[key]:.4g}"]
            for r in found
            for key in ("fid", "kid", "is")
            if key in r
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(
            "--results must be what sample.py, eval.learn or eval.fid wrote, and holds other JSON"
        ) from None
    header = ["sampler", "network calls", "metric", "value"]
    return [markdown_table(header, rows, "lrlr")] if rows else ["No FID was measured."]


def _deliver(folder: Path, dest: str, private: bool) -> None:
    """Copy the folder to DEST, or upload it. Raises FileExistsError as `require_empty`, OSError."""
    if not dest.startswith(hub.PREFIX):
        if "://" in dest:
            raise ValueError(f"publish to hf://owner/name or to a folder, got {dest}")
        require_empty(target := Path(dest).expanduser())
        shutil.copytree(folder, target, dirs_exist_ok=True)
        return
    repo, revision, file = hub.parsed(dest)
    if revision or file:
        raise ValueError(f"publish to hf://owner/name, without a revision or a file, got {dest}")
    library = hub.library()
    try:
        api = library.HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Publish")
    except (library.errors.HfHubHTTPError, OSError) as error:
        raise OSError(f"{dest}: {str(error).splitlines()[0]}") from error


if __name__ == "__main__":
    sys.exit(main())
