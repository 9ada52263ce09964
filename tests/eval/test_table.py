"""The table of sampling runs: cells, order, honesty about budgets and failures, and the command."""

import csv
import json
import os

import pytest
from commands import run_here
from PIL import Image
from wandb_files import records

from eval.paper.sweep import arrange, gather, sweep_page, write_table
from eval.paper.trainings import trainings_page
from eval.table import main

RESULT = {
    "sampler": "tAB3",
    "method": "t_ab",
    "order": 3,
    "nfe": 10,
    "nfe_asked": 10,
    "fid": 4.17,
    "fid_name": "FID-digits-1.8k",
    "num_samples": 1797,
    "images_per_s": 123.4,
    "seconds": 3.2,
    "seeds": "0-1796",
    "checkpoint": "outputs/digits/run",
    "step": 800,
    "dataset": "digits",
    "extractor": "digits@0123",
    "overrides": ["sampler=tab3", "sampler.nfe=10"],
}

TABLES = ("samples", "trainings")


def write_run(folder, status="done", error=None, result=True, **fields):
    fields = RESULT | fields
    folder.mkdir(parents=True)
    facts = {"sampler": fields["sampler"], "nfe_asked": fields["nfe_asked"]}
    (folder / "status.json").write_text(json.dumps({"status": status, "error": error, **facts}))
    if result and status == "done":
        (folder / "result.json").write_text(json.dumps(fields))
    return folder


def cells(folder):
    """The Markdown table as {row: {column: cell}}."""
    lines = [line for line in sweep_page(arrange(gather(folder)[0])).splitlines() if line.startswith("| ")]
    header, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


@pytest.fixture
def paper(tmp_path):
    """A corner of the paper's CIFAR-10 table, with a failed and an unfinished run."""
    write_run(tmp_path / "0", sampler="tAB3", nfe=5, nfe_asked=5, fid=15.37, images_per_s=200.0)
    write_run(tmp_path / "1", sampler="tAB3", fid=4.17, fid_standard_error=0.052)
    write_run(tmp_path / "2", sampler="DDIM", method="ddim", order=0, nfe=5, nfe_asked=5, fid=26.91)
    write_run(tmp_path / "3", sampler="DDIM", nfe_asked=10, status="failed", error="eps is not finite at call 3")
    write_run(tmp_path / "4", sampler="rho3Kutta", method="rho_rk", order=0, nfe=6, nfe_asked=5, fid=1.5)
    write_run(tmp_path / "5", sampler="rho3Kutta", nfe_asked=10, status="running")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "status.json").write_text('{"status": "done", "name": "digits"}')
    return tmp_path


def test_cells_follow_the_papers_conventions(paper):
    assert cells(paper) == {
        "DDIM": {"NFE 5": "26.91", "NFE 10": "ERR", "images/s at 10": "-"},
        "rho3Kutta": {"NFE 5": "1.50 <sup>+1</sup>", "NFE 10": "-", "images/s at 10": "-"},
        "tAB3": {"NFE 5": "**15.37**", "NFE 10": "**4.17 ± 0.05**", "images/s at 10": "123.4"},
    }


def test_text_names_metric_checkpoint_and_every_error(paper):
    text = sweep_page(arrange(gather(paper)[0]))
    assert "FID-digits-1.8k on digits, checkpoint outputs/digits/run at step 800" in text
    assert "±: one standard error, by leaving out each of 10 blocks" in text
    assert "ERR: DDIM at NFE 10: eps is not finite at call 3" in text


def test_text_says_nothing_of_what_nobody_knows(tmp_path):
    """A converted network has no steps, and may be of unknown images."""
    write_run(tmp_path / "0", checkpoint="net", step=None, dataset=None, fid=None, fid_name=None)
    assert "\nNo FID, checkpoint net; lower is better." in sweep_page(arrange(gather(tmp_path)[0]))


def test_rows_are_in_the_papers_order(tmp_path):
    for i, (sampler, method, order) in enumerate(
        [("iPNDM4", "ipndm", 4), ("tAB3", "t_ab", 3), ("tAB1", "t_ab", 1), ("Euler", "euler", 0), ("DDIM", "ddim", 0)]
    ):
        write_run(tmp_path / str(i), sampler=sampler, method=method, order=order)
    assert list(cells(tmp_path)) == ["DDIM", "tAB1", "tAB3", "iPNDM4", "Euler"]


def test_newest_finished_run_of_a_cell_is_shown(tmp_path):
    older, newer = write_run(tmp_path / "b", fid=7.0), write_run(tmp_path / "a", fid=6.0)
    failed = write_run(tmp_path / "c", status="failed", error="stopped")
    for time, folder in enumerate((older, newer, failed)):
        for path in folder.iterdir():
            os.utime(path, (time, time))
    assert cells(tmp_path)["tAB3"]["NFE 10"] == "**6.00**"


def test_a_result_of_an_earlier_run_in_a_folder_that_failed_since_does_not_count(tmp_path):
    write_run(tmp_path / "0", sampler="DDIM", method="ddim", fid=9.0)
    folder = write_run(tmp_path / "1")
    (folder / "status.json").write_text('{"status": "failed", "error": "full", "sampler": "tAB3", "nfe_asked": 10}')
    table = cells(tmp_path)
    assert table["tAB3"] == {"NFE 10": "ERR", "images/s at 10": "-"}
    assert table["DDIM"]["NFE 10"] == "**9.00**"


def test_runs_that_differ_in_an_option_get_rows_that_name_it(tmp_path):
    for i, (nfe, order) in enumerate([(5, 1), (5, 2), (10, 1), (10, 2)]):
        overrides = ["sampler=tab3", f"sampler.nfe={nfe}", f"sampler.ts_order={order}", f"run_dir=out/{i}"]
        overrides += ["logger.mode=offline", "distributed=slurm", "checkpoint=outputs/digits/run"][i:]  # change nothing
        write_run(tmp_path / str(i), nfe=nfe, nfe_asked=nfe, fid=nfe + order, overrides=overrides)
    table = cells(tmp_path)
    assert list(table) == ["tAB3 (sampler.ts_order=1)", "tAB3 (sampler.ts_order=2)"]
    assert table["tAB3 (sampler.ts_order=2)"]["NFE 10"] == "12.00"


@pytest.mark.parametrize(("key", "value"), [("fid_name", "FID-digits-64"), ("step", 400), ("dataset", "mnist")])
def test_runs_that_cannot_be_compared_are_refused(tmp_path, key, value):
    write_run(tmp_path / "0")
    write_run(tmp_path / "1", nfe=5, nfe_asked=5, **{key: value})
    with pytest.raises(ValueError, match=f"different {key} .*{value}"):
        gather(tmp_path)


def test_command_writes_markdown_csv_and_plot(paper, capsys):
    assert main([str(paper)]) == 0
    assert capsys.readouterr().out == f"{(paper / 'table.md').read_text()}\n{paper}\n"
    with (paper / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 6
    best = next(line for line in lines if line["fid"] == "4.17")
    assert {key: best[key] for key in ("fid_standard_error", "seeds", "step", "overrides", "folder")} == {
        "fid_standard_error": "0.052",
        "seeds": "0-1796",
        "step": "800",
        "overrides": "sampler=tab3 sampler.nfe=10",
        "folder": str(paper / "1"),
    }
    assert next(line for line in lines if line["status"] == "failed")["error"] == "eps is not finite at call 3"
    assert Image.open(paper / "fid_vs_nfe.png").format == "PNG"


def test_runs_without_fid_make_a_table_and_no_plot(tmp_path):
    write_run(tmp_path / "0", fid=None, fid_name=None, extractor=None)
    assert main([str(tmp_path)]) == 0
    assert "| tAB3 | no FID | 123.4 |" in (tmp_path / "table.md").read_text()
    assert not (tmp_path / "fid_vs_nfe.png").exists()


def test_a_folder_without_results_gives_one_sentence(tmp_path):
    result = run_here("eval.table", str(tmp_path))
    assert result.returncode == 2
    assert result.stderr == f"error: {tmp_path} holds no results; run sample.py or train.py first\n"
    assert main([str(tmp_path / "none")]) == 2
    assert run_here("eval.table", str(tmp_path / "none"), "logger=none").returncode == 2


def test_a_table_that_cannot_be_written_is_no_bad_configuration(tmp_path, capsys):
    write_run(tmp_path / "0")
    (tmp_path / "table.md").mkdir()
    assert main([str(tmp_path)]) == 1
    assert "Is a directory" in capsys.readouterr().err


def test_options_of_a_computed_table_are_none_of_a_gathered_one(tmp_path):
    write_run(tmp_path / "0")
    result = run_here("eval.table", str(tmp_path), "logger=none", "num_samples=5")
    assert result.returncode == 2
    assert "error: num_samples=5 changes nothing of runs that are there" in result.stderr


def test_a_damaged_result_is_named(tmp_path, capsys):
    (write_run(tmp_path / "0") / "result.json").write_text('{"sampler": "tA')
    assert main([str(tmp_path)]) == 2
    assert "result.json is not JSON" in capsys.readouterr().err


@pytest.fixture
def trainings(tmp_path):
    """Three trainings of a sweep, of which the last failed, beside two sets of samples."""
    for job, (rate, loss) in enumerate([("1e-3", 0.2), ("0.010004123", 0.1), ("1", None)]):
        folder = tmp_path / "sweeps" / str(job)
        folder.mkdir(parents=True)
        status = {"command": "train", "status": "failed" if loss is None else "done", "seconds": 9.6}
        overrides = ["dataset=digits", f"optimizer.learning_rate={rate}"]
        error = {"error": "the loss is NaN"} if loss is None else {}
        (folder / "status.json").write_text(json.dumps(status | error | {"overrides": overrides}))
        if loss is not None:
            records = [{"step": 2, "loss": 1.0}, {"step": 2, "eval_loss": 9.0}, {"step": 4, "loss": 0.5 + loss}]
            records += [{"step": 4, "eval_loss": loss}, {"step": 4, "FID-digits-1k": 4.0 - job}]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
            Image.new("L", (40, 20), 255 * job).save(folder / "samples_0000004.png")
    write_run(tmp_path / "samples" / "0")
    write_run(tmp_path / "samples" / "1", nfe=5, nfe_asked=5)
    return tmp_path


def test_trainings_are_a_table_of_options_against_metrics(trainings):
    text = write_table(trainings / "sweeps")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert lines[0] == ["training", "optimizer.learning_rate", "loss", "eval_loss", "fid", "seconds", "status"]
    assert lines[2:] == [
        ["0", "1e-3", "0.7", "0.2", "4.00", "10", "done"],
        ["1", "0.01", "**0.6**", "**0.1**", "**3.00**", "10", "done"],
        ["2", "1", "-", "-", "-", "10", "failed"],
    ]
    assert "ERR: 2: the loss is NaN" in text
    assert "fid: FID-digits-1k." in text
    assert Image.open(trainings / "sweeps" / "loss.png").format == "PNG"
    grids = Image.open(trainings / "sweeps" / "grids.png").convert("L")
    assert grids.height > 40
    assert {0, 255} <= set(grids.tobytes())


def test_no_fid_of_several_names_is_the_best():
    runs = [{"folder": name, "status": "done", "fid": fid, "fid_name": name} for name, fid in (("A", 2.0), ("B", 1.0))]
    page = trainings_page(runs)
    assert "| B | 1.00 | done |" in page
    assert "fid: A, B, which do not compare.\n" in page


def test_trainings_and_samples_are_one_table(trainings):
    text = write_table(trainings)
    assert "| tAB3 |" in text
    assert "| 0.01 |" in text
    with (trainings / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["eval_loss"] for line in lines] == ["", "", "0.2", "0.1", ""]
    assert [line["fid"] for line in lines] == ["4.17", "4.17", "4.0", "3.0", ""]


def test_a_table_is_read_back_from_wandb_offline(trainings):
    """Its group and name, the rows with their grids, and FID against NFE as a plot."""
    Image.new("L", (8, 8)).save(trainings / "samples" / "0" / "grid.png")
    logged = run_here("eval.table", str(trainings), "logger=wandb", "logger.mode=offline")
    assert logged.returncode == 0, logged.stderr
    found = list(records(trainings))
    (run,) = {(record.run_group, record.display_name, record.job_type) for kind, record in found if kind == "run"}
    assert run == (trainings.name, trainings.name, "sweep")
    axes = {record.name or record.glob_name: record.step_metric for kind, record in found if kind == "metric"}
    assert axes["fid/*"] == axes["fid"] == "nfe"
    assert axes["eval_loss"] == ""
    points = [
        {item.nested_key[0]: json.loads(item.value_json) for item in record.item}
        for kind, record in found
        if kind == "history"
    ]
    assert [(point["nfe"], point["fid/tAB3"]) for point in points if "nfe" in point] == [(5, 4.17), (10, 4.17)]
    samples, runs = (json.loads(next(trainings.rglob(f"media/table/{name}*.json")).read_text()) for name in TABLES)
    assert [row[:4] for row in samples["data"]] == [["tAB3", 5, 5, 4.17], ["tAB3", 10, 10, 4.17]]
    assert [row[0] for row in runs["data"]] == ["1e-3", "0.01", "1"]
    files = [[entry.path for entry in record.manifest.contents] for kind, record in found if kind == "artifact"]
    assert [sum(path.endswith(".png") for path in paths) for paths in files] == [1, 2], "a grid for each that has one"
