"""Lists of queries: a query a line, or a row of vectors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from vmae_embed.errors import UsageError
from vmae_embed.query.arrays import check_array, load_array


@contextlib.contextmanager
def open_queries(name: str, width: int, stdin: BinaryIO) -> Iterator[Iterator[tuple[str, str | NDArray[Any]]]]:
    """Open a list of queries, to be read as it is asked for: it may be longer than memory.

    Args:
        name: of a text file with a query a line, or of a ``.npy`` file of vectors ``(Q, D)``,
            each a query of its own; ``-`` is standard input, and text.
        width: D of the library.
        stdin: standard input.

    Yields:
        Where each query stands, and the query. Empty lines are passed over.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    if name == "-":
        yield _lines(stdin)
    elif name.lower().endswith(".npy"):
        array = load_array(name, mapped=True)
        array = array[None] if array.ndim == 1 else array
        check_array(array, name, width)
        yield ((f"{Path(name).name}[{row}]", array[row]) for row in range(len(array)))
    else:
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(open(os.path.expanduser(name), "rb"))
                is_binary = b"\0" in file.peek()
            except OSError as error:
                raise UsageError(f"{name}: cannot be read as a list of queries ({error.strerror})") from error
            if is_binary:
                raise UsageError(f"{name}: not text; give a list with a query a line, or a .npy file of vectors")
            yield _lines(file)


def _lines(file: BinaryIO) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(file, start=1):
        # As bytes: names of files need not be valid in any encoding.
        text = os.fsdecode(line).removeprefix("\ufeff").rstrip("\r\n")
        if text.strip():
            yield f"line {number}", text
