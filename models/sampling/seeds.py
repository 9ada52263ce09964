"""Seeds of images, as typed on the command line."""

import re


def parse_seeds(text: str) -> list[int]:
    """The seeds that "0-9" or "3+7+20-29" names, in that order; a comma works as "+" does, where it is quoted.

    Raises ValueError for anything else, for a seed named twice, and for one that 32 bits do not hold.
    """
    seeds: list[int] = []
    for part in text.replace(",", "+").split("+"):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"seeds must look like 0-999 or 3+7+20-29, got {text!r}")
        seeds.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must differ from each other, got {text!r}")
    if max(seeds) >= 2**32:
        raise ValueError(f"seeds must be below 2^32, got {max(seeds)}")
    return seeds
