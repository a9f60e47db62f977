"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """Names a file that replaces ``path`` when the block ends and vanishes when it raises.

    Args:
        path: the file to write; its folder is made where it is missing.

    Yields:
        Where to write it, in the same folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Opens a text file that replaces ``path`` when the block ends and vanishes when it raises.

    Args:
        path: the file to write; its folder is made where it is missing.

    Yields:
        The stream to write UTF-8 text to.
    """
    with (
        partial_file(path) as partial,
        partial.open("w", encoding="utf-8", newline="\n") as stream,
    ):
        yield stream


def why_not_written(error: OSError, target: Path) -> str:
    """Says on one line why ``target`` could not be written, and what to do."""
    reason = error.strerror or str(error)
    fix = "check the path and its rights"
    if error.errno in _NO_SPACE:
        reason, fix = f"no space left: {reason}", "free some space or choose another output"
    return f"{target}: not written ({reason}). Nothing was changed; {fix}."
