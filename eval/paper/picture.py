"""Samples of a paper's table in one picture: methods by NFE, all from the same noise."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from eval.figures import image_grid

MARGIN = 8  # pixels between the cells
FONT_SIZE = 15


def samples_picture(
    path: Path,
    cells: Mapping[tuple[str, str], UInt8[np.ndarray, "n h w c"]],
    rows: Sequence[str],
    columns: Sequence[str],
) -> None:
    """Write a picture with a block of samples for every (row, column) in `cells`; missing ones stay white.

    The blocks hold equally many images of one shape, n at most 9 looks well. Raises ValueError if there are none.
    """
    if not cells:
        raise ValueError("there are no samples to show")
    font = ImageFont.truetype(str(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), FONT_SIZE)
    blocks = {key: image_grid(images) for key, images in cells.items()}
    height, width, _ = next(iter(blocks.values())).shape
    left = round(max(font.getlength(row) for row in rows)) + 2 * MARGIN
    top = FONT_SIZE + 2 * MARGIN
    size = left + len(columns) * (width + MARGIN), top + len(rows) * (height + MARGIN)
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    for j, column in enumerate(columns):
        pen.text((left + j * (width + MARGIN) + width / 2, top / 2), column, "black", font, anchor="mm")
    for i, row in enumerate(rows):
        y = top + i * (height + MARGIN)
        pen.text((left - MARGIN, y + height / 2), row, "black", font, anchor="rm")
        for j, column in enumerate(columns):
            if (row, column) in blocks:
                block = np.broadcast_to(blocks[row, column], (height, width, 3))
                canvas.paste(Image.fromarray(block.copy()), (left + j * (width + MARGIN), y))
    canvas.save(path)
