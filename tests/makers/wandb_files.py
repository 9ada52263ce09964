"""What an offline run of wandb has written down, read back from its file."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import wandb
from wandb.proto import wandb_internal_pb2

BLOCK = 32768  # the file is a LevelDB log: blocks of records, which are cut at the end of a block


def records(folder: Path) -> Iterator[tuple[str, Any]]:
    """(kind, record) of everything in the one offline run below `folder`, such as ("history", ...)."""
    wandb.teardown()  # which waits until all is written
    (path,) = folder.rglob("offline-run-*/*.wandb")
    content, at, message = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        message += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record, message = wandb_internal_pb2.Record.FromString(message), b""  # type: ignore[attr-defined]
            name = record.WhichOneof("record_type")
            yield name, getattr(record, name)
