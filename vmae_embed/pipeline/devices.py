"""Several devices: a process for each, that loads the encoder and runs `run_units` on it.

Units go out one at a time, as processes ask; progress comes back. Pixels and vectors never
cross: each process writes its own shards. One device needs none of this.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from vmae_embed.errors import CheckpointError, VmaeEmbedError, one_line
from vmae_embed.library import Library, LibraryConfig
from vmae_embed.pipeline.progress import Progress
from vmae_embed.pipeline.run import run_units
from vmae_embed.plan import Unit
from vmae_embed.workers import WorkerConfig, connect_to_parent, describe_exit, end_process, start_interpreter, tell

_CHILD = "from vmae_embed.pipeline.devices import main; main(sys.argv[1:])"


@dataclass(frozen=True, slots=True)
class EncoderRecipe:
    """How a process loads the encoder.

    Attributes:
        identity: of the encoder, which says what to load.
        compile: whether it is compiled.
        batch_size: clips in one forward pass.
    """

    identity: Mapping[str, Any]
    compile: bool
    batch_size: int


@dataclass(frozen=True, slots=True)
class _Task:
    device: str
    recipe: EncoderRecipe
    library: Path
    library_config: LibraryConfig
    config: WorkerConfig
    workers: int


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The process asks for a unit."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """The process is through, or cannot go on."""

    error: str | None = None


def run_on_devices(
    units: Iterable[Unit],
    devices: Sequence[str],
    recipe: EncoderRecipe,
    library: Library,
    config: WorkerConfig,
    *,
    workers: int,
) -> Generator[Progress, None, None]:
    """Do what `run_units` does, on several devices.

    Args:
        units: to extract.
        devices: a process runs on each.
        recipe: of the encoder.
        library: locked by the caller.
        config: of the decoding processes.
        workers: decoding processes of each device.

    Yields:
        What happened, as it happens.

    Raises:
        VmaeEmbedError: a device's process failed or died.
    """
    waiting = iter(units)
    with contextlib.ExitStack() as closing:
        running: dict[Connection, _DeviceProcess] = {}
        for device in devices:
            task = _Task(device, recipe, library.path, library.config, config, workers)
            process = _DeviceProcess(task)
            closing.callback(process.close)
            running[process.connection] = process
        while running:
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                message = running[connection].receive()
                if isinstance(message, Progress):
                    yield message
                elif isinstance(message, _Wanted):
                    tell(connection, next(waiting, None))
                elif message.error is None:
                    del running[connection]
                else:
                    raise VmaeEmbedError(f"{running[connection].device}: {message.error}")


class _DeviceProcess:
    def __init__(self, task: _Task) -> None:
        self.device = task.device
        self._process, self.connection = start_interpreter(_CHILD)
        tell(self.connection, task)

    def receive(self) -> Progress | _Wanted | _Ended:
        try:
            message: Progress | _Wanted | _Ended = self.connection.recv()
        except (EOFError, OSError):
            how = describe_exit(end_process(self._process))
            return _Ended(f"its process died ({how}); what is complete is kept: run the same command again to go on")
        return message

    def close(self) -> None:
        """End the process: it sees the closed pipe, or is killed."""
        self.connection.close()
        end_process(self._process)


class _Parent:
    """The parent, from the process's side; spoken to by two threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def tell(self, message: Progress | _Wanted | _Ended) -> None:
        with self._sending:
            self._connection.send(message)

    def task(self) -> _Task:
        task: _Task = self._connection.recv()
        return task

    def units(self) -> Iterator[Unit]:
        while True:
            self.tell(_Wanted())
            unit: Unit | None = self._connection.recv()
            if unit is None:
                return
            yield unit


def main(arguments: list[str]) -> None:
    """Run until the parent has no more units, or closes the pipe whose descriptor it gave."""
    parent = _Parent(connect_to_parent(arguments[0]))
    try:
        _work(parent, parent.task())
        parent.tell(_Ended())
    except VmaeEmbedError as error:
        parent.tell(_Ended(str(error)))
    except Exception as error:  # the parent reports it in one line
        parent.tell(_Ended(one_line(error)))
    os._exit(0)  # the threads of CUDA and decoders need no goodbye


def _work(parent: _Parent, task: _Task) -> None:
    from vmae_embed.encoder import Encoder

    recipe = task.recipe
    encoder = Encoder.from_identity(recipe.identity, device=task.device, compile=recipe.compile)
    labelled_by = task.library_config.classifier
    if encoder.identity["weights_sha256"] != recipe.identity["weights_sha256"] or (
        labelled_by is not None and encoder.classifier().sha256 != labelled_by
    ):
        raise CheckpointError(f"{recipe.identity['checkpoint']} changed while the run began")
    encoder.batch_size = recipe.batch_size
    library = Library(task.library, task.library_config)
    config = replace(task.config, gpu=encoder.device.index or 0)
    with contextlib.closing(run_units(parent.units(), encoder, library, config, workers=task.workers)) as said:
        for progress in said:
            parent.tell(progress)
