"""Which clips a search may find, as an SQL predicate over an index's table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vmae_embed.errors import UsageError

if TYPE_CHECKING:
    import duckdb

# The predicate may come from anywhere: it reads no file, loads no code and sees no variable of ours.
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "memory_limit": "1GB",
    "threads": "2",
}


def rows_where(clips: pa.Table, predicate: str) -> NDArray[np.int64]:
    """Give the rows of a table that a predicate is true of.

    Args:
        clips: of an index.
        predicate: what may stand after WHERE in DuckDB's SQL, over columns of the table.

    Returns:
        Ascending row numbers.

    Raises:
        UsageError: it is no predicate, or cannot be evaluated.
    """
    import duckdb

    row = "_".join(clips.column_names)  # longer than any name there is, so none of them
    table = clips.append_column(row, pa.array(np.arange(clips.num_rows)))
    try:
        with duckdb.connect(":memory:", config=_SETTINGS) as connection:
            connection.register("clips", table)
            connection.execute("SET lock_configuration = true")
            _check(connection, predicate)
            query = f'SELECT "{_quoted(row)}" AS row FROM clips WHERE ({predicate}\n) ORDER BY row'  # noqa: S608
            found: NDArray[Any] = connection.execute(query).fetchnumpy()["row"]
    except duckdb.Error as error:
        raise _refused(clips, predicate, str(error)) from error
    except (TypeError, UnicodeEncodeError) as error:
        raise _refused(clips, predicate, "not text in UTF-8") from error
    return np.asarray(found, dtype=np.int64)


def _check(connection: duckdb.DuckDBPyConnection, predicate: str) -> None:
    """Let through what is one boolean expression and nothing else.

    What can be read both bare and in brackets closes every bracket that it opens, and has no clause after it.
    The newline ends a comment.
    """
    import duckdb

    if not predicate.strip():
        raise duckdb.ParserException("is empty")
    if len(connection.extract_statements(f"SELECT {predicate}\n")) != 1:
        raise duckdb.ParserException("several statements, where one condition is taken")
    types = connection.sql(f"SELECT ({predicate}\n) FROM clips").types  # noqa: S608
    if [str(kind) for kind in types] != ["BOOLEAN"]:
        raise duckdb.BinderException(f"gives {types[0]}, not true or false")


def _quoted(name: str) -> str:
    return name.replace('"', '""')


def _refused(clips: pa.Table, predicate: str, detail: str) -> UsageError:
    # The first paragraph says what is wrong; the others draw it.
    reason = " ".join(detail.split("\n\n")[0].split("\nCandidate")[0].split()).rstrip(".!")
    return UsageError(
        f"where {_shown(predicate)}: {reason}; give an SQL condition on columns {', '.join(clips.column_names)}, "
        "with text in 'single quotes'"
    )


def _shown(text: str) -> str:
    return repr(" ".join(text.split())[:200])
