"""Tables that users write: three kinds of file, one table, one line for what cannot be read."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vmae_embed.errors import UsageError
from vmae_embed.tables import read_table

ROWS = {"path": ["a.mp4", "b, c.mp4"], "label": [1, 2], "score": [0.5, None]}


@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".tsv", ".parquet"])
def test_the_three_kinds_give_one_table(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table(ROWS), path)
    elif suffix == ".tsv":
        path.write_text("path\tlabel\tscore\na.mp4\t1\t0.5\nb, c.mp4\t2\t\n")
    else:
        path.write_text('path,label,score\na.mp4,1,0.5\n"b, c.mp4",2,\n')
    assert read_table(path).to_pydict() == ROWS


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_byte_order_marks_and_windows_lines_are_no_part_of_the_values(tmp_path, newline):
    path = tmp_path / "excel.csv"
    path.write_bytes(b"\xef\xbb\xbf" + newline.join(["path,kind", "a.mp4,cat", ""]).encode())
    assert read_table(path).to_pydict() == {"path": ["a.mp4"], "kind": ["cat"]}


def test_a_quoted_value_may_hold_quotes_commas_and_newlines(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('path,note\n"a, ""b""\nc.mp4",x\n')
    assert read_table(path)["path"].to_pylist() == ['a, "b"\nc.mp4']


def test_newlines_in_values_do_not_matter_in_long_files_either(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("note\n" + '"a\nb"\n' * 300_000)  # Arrow parses a megabyte at a time
    notes = read_table(path)["note"]
    assert len(notes) == 300_000
    assert notes.unique().to_pylist() == ["a\nb"]


def test_columns_are_numbers_only_where_all_of_them_read_as_such(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,c,d\n1,1,true,x\n2,1.5,false,\n")
    assert [str(kind) for kind in read_table(path).schema.types] == ["int64", "double", "bool", "string"]


def test_columns_named_as_text_stay_as_they_are_written(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,day,n\n007,2024-05-06T07:08:09,007\n")
    table = read_table(path, text=["id", "day", "absent"])
    assert table.to_pylist() == [{"id": "007", "day": "2024-05-06T07:08:09", "n": 7}]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("absent.csv", None, r"absent\.csv: no such file$"),
        ("absent.parquet", None, r"absent\.parquet: no such file$"),
        ("t.xlsx", b"PK", r"t\.xlsx: not a table; give a \.csv, \.tsv, \.parquet file$"),
        ("t", b"path\n", r"t: not a table; give a \.csv, \.tsv, \.parquet file$"),
        ("t.csv", b"", r"cannot be read as a table \(Empty CSV file\)$"),
        ("t.csv", b"a,b\n1,2\n1,2,3\n", r"cannot be read as a table \(.*Expected 2 columns, got 3: 1,2,3\)$"),
        ("t.csv", "path,l\na,b\n".encode("utf-16"), r"t\.csv: cannot be read as a table \("),
        ("t.csv", "name,déjà\na,b\n".encode("latin-1"), r"t\.csv: its header is not in UTF-8; save it as UTF-8$"),
        ("t.csv", "id\ndéjà\n".encode("latin-1"), r"t\.csv: cannot be read as a table \(.*invalid UTF8"),
        ("t.csv", b"a,b\n" + b"1," * 5000 + b"\n", r"t\.csv: cannot be read as a table \("),
        ("t.parquet", b"", r"t\.parquet: cannot be read as a table \("),
        ("t.parquet", b"PAR1" + bytes(1000) + b"PAR1", r"t\.parquet: cannot be read as a table \("),
        ("t.parquet", b"path\na.mp4\n", r"t\.parquet: cannot be read as a table \("),
    ],
)
def test_what_cannot_be_read_is_one_short_line(tmp_path, name, data, message):
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError, match=message) as caught:
        read_table(path, text=["id"])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300


def test_a_directory_by_a_tables_name_is_refused(tmp_path):
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(UsageError, match=r"t\.csv: cannot be read as a table"):
        read_table(tmp_path / "t.csv")
