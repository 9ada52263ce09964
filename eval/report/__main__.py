"""Write FOLDER/report.html: what a run, a sweep or a table gave, in one file that needs no other and no network.

    python -m eval.report FOLDER

FOLDER is that of a run of train.py, of sample.py or of any other command that writes one, a table of eval.table among
them, or the folder of a sweep. The file holds the numbers, the tables, the plots, the grids and the options. A run need
not have ended.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from eval.report.contents import report
from formats.files import write_atomically


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__.strip())
        return 0
    if len(arguments) != 1:
        print(f"error: give one folder, as python -m eval.report FOLDER; got {len(arguments)} words", file=sys.stderr)
        return 2
    folder = Path(arguments[0]).expanduser()
    try:
        write_atomically(folder / "report.html", report(folder))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError | FileNotFoundError) else 1
    print(folder / "report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
