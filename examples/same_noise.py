"""The same noise through solvers by network calls, a sheet: rows are solvers, columns numbers of calls.

python -m examples.same_noise                 the network that comes along
python -m examples.same_noise RUN_FOLDER      one that train.py made, or models.convert
"""

import sys
from pathlib import Path

import data
import deis
from eval.figures import samples_picture
from examples import run
from models.sampling.draw import draw, load_trained
from models.sampling.source import SHIPPED, find

METHODS = ("euler", "ddim", "dpm_solver_pp", "ipndm", "tab3")  # of deis.tables.build; one call a step each
CALLS = (3, 5, 7, 10, 20, 50)
SEEDS = [31, 36]  # of noise and class, as those of sample.py


def main(checkpoint: str = str(SHIPPED), picture: str = "same_noise.png") -> None:
    """Draw with the network in the folder `checkpoint` and write the sheet to `picture`."""
    source = find(checkpoint, None, "outputs")
    net, cells = load_trained(source.path, source.step), {}
    for method in METHODS:
        for calls in CALLS:
            table = deis.tables.build(net.sde, num_step=calls, method=method)
            (x_0,) = draw(net, table, SEEDS, batch_size=len(SEEDS))
            cells[table.name, f"{calls} calls"] = data.to_uint8(x_0, "round")
    samples_picture(Path(picture), cells)
    print(f"{len(METHODS)} solvers in {CALLS[0]} to {CALLS[-1]} network calls: {picture}")


if __name__ == "__main__":
    run(main, *sys.argv[1:])
