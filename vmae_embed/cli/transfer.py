"""``vmae-embed import`` and ``vmae-embed export``."""

from __future__ import annotations

import click

from vmae_embed.cli import EXIT_INTERRUPTED
from vmae_embed.cli.options import library_argument
from vmae_embed.cli.output import StageProgress, count_of, say

_quiet = click.option("-q", "--quiet", is_flag=True, help="No progress.")


@click.command("import")
@library_argument
@click.option(
    "--embeddings",
    required=True,
    metavar="FILE|DIR",
    help="A .npy file of shape (N, D), a Parquet file with a column of lists, or a folder of either.",
)
@click.option(
    "--metadata",
    metavar="FILE|DIR",
    help="CSV, TSV or Parquet, or a folder of Parquet files; row i is of vector i.",
)
@click.option("--column", metavar="NAME", help="Of a Parquet file's vectors. [default: embedding]")
@click.option(
    "--id-column",
    metavar="NAME",
    help="Its values become clip ids. [default: clip_id; else made of video_id or path, start_s and end_s; "
    "else row numbers]",
)
@click.option(
    "--store",
    type=click.Choice(("float32", "float16")),
    help="Type of the embeddings on disk. [default: as the library was made; else float16 if the vectors are, "
    "else float32]",
)
@click.option(
    "--name",
    metavar="TEXT",
    help="What made the vectors; one library holds those of one name. [default: as the library was made; "
    "else imported]",
)
@_quiet
def import_(
    library: str,
    embeddings: str,
    metadata: str | None,
    column: str | None,
    id_column: str | None,
    store: str | None,
    name: str | None,
    quiet: bool,
) -> int:
    """Take vectors made elsewhere as a library.

    LIB is made if missing, else added to: vectors of the same width and name. Columns of a
    library's (video_id, path, start_s, end_s, fps, ...) are taken as such, others are carried along.

    Run it again to resume after an interruption: what the library holds is not taken twice.
    """
    from vmae_embed.importer import import_vectors

    try:
        with StageProgress() as progress:
            done = import_vectors(
                library,
                embeddings,
                metadata=metadata,
                column=column,
                id_column=id_column,
                stored=store,
                name=name,
                observe=None if quiet else progress,
            )
    except KeyboardInterrupt:
        say(f"interrupted; what is complete is kept in {library}: run the same command again to go on")
        return EXIT_INTERRUPTED
    rate = f", {done.clips / done.seconds:,.0f} clips/s" if done.clips else ""
    say(
        f"{library}: {count_of(done.clips, 'clip')} added in {done.seconds:.1f} s{rate}; "
        f"{count_of(done.held, 'clip')} already there"
    )
    if done.left_out:
        say(f"columns left out: {', '.join(f'{name} ({why})' for name, why in done.left_out.items())}")
    if done.zeros:
        say(f"of length zero, and so like nothing: {count_of(done.zeros, 'clip')}")
    return 0


@click.command()
@library_argument
@click.option(
    "--to",
    type=click.Choice(("npy", "parquet", "faiss", "lance")),
    required=True,
    help="npy: a folder with embeddings.npy and metadata.parquet. parquet: one file, or a folder of parts where the "
    "name does not end with .parquet. faiss: a folder with index.faiss, clips.parquet and how to search them. "
    "lance: a dataset.",
)
@click.option("-o", "--output", required=True, metavar="OUT", help="File or folder to write.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier export.")
@_quiet
def export(library: str, to: str, output: str, overwrite: bool, quiet: bool) -> None:
    """Write a library's embeddings for other tools.

    Embeddings are as the library has them, not normalised; row i of a table is of vector i. npy is what
    clip-retrieval and autofaiss take, parquet what Milvus, Qdrant, LanceDB, DuckDB and pandas do.
    """
    from vmae_embed.exporter import export as write
    from vmae_embed.library import Library

    opened = Library.open(library)
    with StageProgress() as progress:
        done = write(opened, output, to, overwrite=overwrite, observe=None if quiet else progress)
    size = f"{done.bytes / 2**20:,.1f} MiB"
    say(f"{output}: {count_of(done.clips, 'clip')} as {to} in {done.seconds:.1f} s, {size}")
