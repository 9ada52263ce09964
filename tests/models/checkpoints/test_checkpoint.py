"""Checkpoints: what is read is bit for bit what was written, or a sentence says why not."""

import hashlib
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from commands import ROOT, environment
from saved_states import CONFIG, State, assert_same_bits, biggest_file, cut_short, flip_a_bit, make_state, save

from formats.files import sha256
from models.checkpoints import checkpoint, saver


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    save(folder, 7, make_state())
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    subprocess.run(["cp", "-r", written, tmp_path / "run"], check=True)
    return tmp_path / "run"


def test_restored_bit_for_bit(written: Path) -> None:
    restored = checkpoint.restore(written, 7, like=jax.eval_shape(make_state))
    assert isinstance(restored, State)
    assert_same_bits(restored, make_state())
    assert checkpoint.read_config(written, 7) == CONFIG


def test_one_entry_alone(written: Path) -> None:
    """Sampling reads the EMA only, and needs no optimiser to say what it looks like."""
    like = {"ema": jax.eval_shape(make_state).ema}
    assert_same_bits(checkpoint.restore(written, 7, like), {"ema": make_state().ema})


def test_keeps_the_newest(tmp_path: Path) -> None:
    assert checkpoint.latest_step(tmp_path / "absent") is None
    for step in (1, 2, 10):
        save(tmp_path, step, {"w": jnp.full(2, step)}, keep=2)
    assert checkpoint.steps(tmp_path) == [2, 10]
    assert checkpoint.latest_step(tmp_path) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000002", "00000010"]


def test_a_harmed_or_missing_file_is_named(folder: Path) -> None:
    file = biggest_file(folder)
    for harm, what in (
        (flip_a_bit, "does not match its checksum"),
        (cut_short, "does not match"),
        (Path.unlink, "is miss"),
    ):
        harm(file)
        with pytest.raises(ValueError, match=f"{file.name} {what}") as caught:
            checkpoint.restore(folder, 7, make_state())
        assert "\n" not in str(caught.value)


def test_a_cut_off_json_file_is_named(folder: Path) -> None:
    for file in (folder / "00000007").glob("*.json"):
        file.write_text(file.read_text()[:-20])
    with pytest.raises(ValueError, match=r"00000007/config\.json is not JSON"):
        checkpoint.read_config(folder, 7)
    with pytest.raises(ValueError, match=r"checkpoint .* is damaged: manifest\.json is not JSON"):
        checkpoint.restore(folder, 7, make_state())


def test_no_such_step(written: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 8 in .*; there are: 7"):
        checkpoint.restore(written, 8, make_state())
    with pytest.raises(FileNotFoundError, match="there are: none"):
        checkpoint.read_config(tmp_path, 1)


def test_deleted_by_its_training_while_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damage(path: Path) -> str:
        shutil.rmtree(path)
        return "a file is missing"

    monkeypatch.setattr(checkpoint, "damage", damage)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 7 in .*; there are: none"):
        checkpoint.restore(folder, 7, make_state())


def test_a_folder_is_located_from_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = tmp_path / "checkpoints" / "00000007"
    step.mkdir(parents=True)
    (step / checkpoint.MANIFEST).touch()
    for inside in (tmp_path, step.parent, step):
        monkeypatch.chdir(inside)
        found, number = checkpoint.locate(Path("."))
        assert (found.absolute(), number) == (step.parent, 7)


def test_another_network_is_refused_with_both_shapes(written: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.channels") as caught:
        checkpoint.restore(written, 7, make_state(width=6))
    assert r"ema/down/00/bias is float32[5] there and float32[6] here" in str(caught.value)
    with pytest.raises(ValueError, match=r"ema/extra is absent there and float32\[2\] here"):
        checkpoint.restore(written, 7, {"ema": make_state().ema | {"extra": jnp.zeros(2)}})
    fewer = {name: value for name, value in make_state().ema.items() if name != "scale"}
    with pytest.raises(ValueError, match=r"ema/scale is float32\[\] there and absent here"):
        checkpoint.restore(written, 7, {"ema": fewer})


def test_killed_while_deleting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that is being deleted is no step any more, even if the deletion never ends."""
    save(tmp_path, 1, {"w": jnp.zeros(2)})

    def killed(path: Path, ignore_errors: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(saver.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2, {"w": jnp.zeros(2)})
    assert checkpoint.steps(tmp_path) == [2]
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.undo()
    save(tmp_path, 3, {"w": jnp.zeros(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["00000003"]


def test_read_without_jax(written: Path) -> None:
    """So that a command can be refused at once."""
    code = (
        "import sys; from pathlib import Path; from models.checkpoints import checkpoint as c; f = Path(sys.argv[1]);"
        "print(c.latest_step(f), c.scores(f), c.read_config(f, 7)['seed'], {'jax', 'orbax'} & {*sys.modules})"
    )
    command = [sys.executable, "-c", code, str(written)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("7 {7: None} 3 set()\n", "")


def test_keeps_the_best(tmp_path: Path) -> None:
    for step, score in enumerate([3.0, 1.0, 2.0, math.nan, None, 1.0, -math.inf], start=1):
        save(tmp_path, step, {"w": jnp.zeros(2)}, keep=2, keep_best=True, score=score)
    assert checkpoint.steps(tmp_path) == [2, 6, 7]
    assert checkpoint.scores(tmp_path) == {2: 1.0, 6: 1.0, 7: -math.inf}
    save(tmp_path, 8, {"w": jnp.zeros(2)}, keep_best=True, score=0.5)
    assert checkpoint.steps(tmp_path) == [8]
    save(tmp_path, 9, {"w": jnp.zeros(2)})
    assert checkpoint.steps(tmp_path) == [9]
    assert checkpoint.scores(tmp_path) == {9: None}


def test_every_bit_of_the_manifest_counts(written: Path, folder: Path) -> None:
    path = folder / "00000007"
    assert checkpoint.damage(path) is None
    content = (written / "00000007" / checkpoint.MANIFEST).read_bytes()
    for position in range(0, len(content), 7):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        (path / checkpoint.MANIFEST).write_bytes(flipped)
        assert checkpoint.damage(path) is not None, f"byte {position} of {flipped!r}"


def test_a_run_of_the_former_layout_goes_on(folder: Path) -> None:
    """Its manifest also lists the arrays, and Orbax's own notes lie in state/ alone."""
    old = folder / "00000003"
    old.mkdir()
    with ocp.PyTreeCheckpointer(use_compression=False) as checkpointer:
        checkpointer.save(old / "state", jax.tree.map(np.asarray, make_state(3)._asdict()))
    (old / "config.json").write_text(json.dumps(CONFIG))
    digests = {str(path.relative_to(old)): sha256(path) for path in old.rglob("*") if path.is_file()}
    content = {"score": 0.25, "arrays": {"step": "int32[]"}, "files": digests}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (old / "manifest.json").write_text(json.dumps(content | {"sha256": digest}))

    shutil.rmtree(folder / "00000007")
    found = checkpoint.restore_latest(folder, make_state())
    assert found is not None
    step, state = found
    assert (step, checkpoint.read_config(folder, 3)) == (3, CONFIG)
    assert_same_bits(state, make_state(3))
    for step in (4, 5):
        save(folder, step, make_state(step), keep_best=True, score=0.5)
    assert checkpoint.steps(folder) == [3, 5]
    save(folder, 6, make_state(6), keep_best=True, score=0.1)
    assert checkpoint.steps(folder) == [6]


def test_a_checkpoint_of_other_images_is_refused(tmp_path: Path, written: Path) -> None:
    checkpoint.refuse_other_images(written, 7, 60_000)
    with saver.Saver(tmp_path, keep=1) as writer:
        writer.save(1, {"w": jnp.zeros(2)}, {"num_images": 270})
    checkpoint.refuse_other_images(tmp_path, 1, 270)
    with pytest.raises(
        ValueError, match=r"00000001 was trained on 270 images, and there are 1,280 now; .*allow_changes"
    ):
        checkpoint.refuse_other_images(tmp_path, 1, 1280)
