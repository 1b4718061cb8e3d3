"""CSV and Parquet tables that users write: manifests and labels."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from vmae_embed.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")


def read_table(path: Path, *, text: Collection[str] = ()) -> pa.Table:
    """Read a CSV, TSV or Parquet file.

    Columns of CSV and TSV files whose every value reads as a number become numbers.

    Args:
        path: the file.
        text: columns of CSV and TSV files to leave as they are written: 007 is no 7.

    Raises:
        UsageError: the file is missing, is of another kind, or cannot be parsed.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise UsageError(f"{path}: not a table; give a {', '.join(TABLE_SUFFIXES)} file")
    try:
        if suffix == ".parquet":
            return pa.parquet.read_table(path)
        parse = pa.csv.ParseOptions(delimiter="\t" if suffix == ".tsv" else ",", newlines_in_values=True)
        convert = pa.csv.ConvertOptions(column_types=dict.fromkeys(text, pa.string()))
        table = pa.csv.read_csv(path, parse_options=parse, convert_options=convert)
        _ = table.column_names  # decodes them
        return table
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: its header is not in UTF-8; save it as UTF-8") from error
    except (OSError, pa.ArrowException) as error:
        # What is no table may hold anything, which a terminal would obey.
        detail = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))[:200]
        raise UsageError(f"{path}: cannot be read as a table ({detail})") from error
