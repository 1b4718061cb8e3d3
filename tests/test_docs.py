"""What the documentation shows is true: its code runs, its files and verbs exist."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.libraries import clustered, make_library
from vmae_embed.cli import _VERBS, cli
from vmae_embed.index import Index

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.filterwarnings("default")  # pandas' and duckdb's own
def test_format_md_reads_a_library_without_this_package(tmp_path, monkeypatch, capsys, number):
    vectors = clustered(60, 16)
    Index.build(make_library(tmp_path / "LIB", vectors, tokens=np.ones((60, 5, 16))))
    monkeypatch.chdir(tmp_path)
    code = blocks("docs/format.md")
    assert len(code) == 4
    assert "vmae_embed" not in code[number]
    exec(code[number], {})
    out = capsys.readouterr().out
    assert ("v00000.mp4#t=0.000,2.000" in out) or ("('v00000.mp4', 4)" in out)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_every_verb_and_flag_is_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    commands = {verb: cli.get_command(None, verb) for verb in _VERBS}
    for verb, group in list(commands.items()):
        commands |= {f"{verb} {name}": command for name, command in getattr(group, "commands", {}).items()}
    for verb, command in commands.items():
        assert f"vmae-embed {verb}" in readme
        for parameter in command.params:
            for flag in parameter.opts:
                if flag.startswith("--"):
                    assert flag in readme, f"{verb} {flag}"
