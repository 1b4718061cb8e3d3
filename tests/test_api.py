"""The public names, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import vmae_embed


def test_public_names_are_pinned():
    assert vmae_embed.__all__ == [
        "Encoder",
        "Hit",
        "Index",
        "IndexSpec",
        "Library",
        "LinearProbe",
        "Sampling",
        "VmaeEmbedError",
        "__version__",
        "export",
        "extract",
        "find_duplicates",
        "import_vectors",
        "search",
        "search_many",
        "show",
        "write_report",
    ]


def test_every_public_name_is_there():
    for name in vmae_embed.__all__:
        assert getattr(vmae_embed, name) is not None
    assert callable(vmae_embed.extract)
    assert callable(vmae_embed.search)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        vmae_embed.nonsense  # noqa: B018


def test_the_version_is_the_packages():
    from importlib.metadata import version

    assert vmae_embed.__version__ == version("vmae-embed")


def test_importing_loads_nothing_heavy():
    program = (
        "import time; begun = time.perf_counter(); import vmae_embed; spent = time.perf_counter() - begun;"
        "import sys; heavy = {'numpy', 'torch', 'transformers', 'faiss', 'pyarrow', 'av', 'click'} & set(sys.modules);"
        "assert not heavy, heavy; assert spent < 0.2, spent"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_help_loads_nothing_heavy():
    program = (
        "import sys; from vmae_embed.cli import _run; _run(['--help']);"
        "assert not {'numpy', 'torch', 'transformers', 'faiss', 'pyarrow', 'av'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_a_decoding_process_loads_nothing_it_does_not_need():
    program = (
        "import sys, vmae_embed.workers.child;"
        "assert not {'torch', 'transformers', 'faiss', 'pyarrow', 'click'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_errors_are_one_tree_as_drawn():
    from vmae_embed import errors

    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert all(issubclass(value, errors.VmaeEmbedError) for value in classes)
    assert all(value.__name__ in errors.__doc__ for value in classes)
