import re
import shlex
from pathlib import Path

import pytest

from lswag_hooks import cli

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
COMMANDS = [
    command.strip()
    for language, block in BLOCKS
    if language == "sh"
    for line in block.splitlines()
    for command in line.split("&&")
    if command.strip().removeprefix(".venv/bin/").startswith("lswag ")
]


@pytest.mark.filterwarnings("ignore")  # Lightning has advice for the trainer of an example
def test_the_python_in_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    for language, block in BLOCKS:
        if language == "python":
            exec(compile(block, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert "not scored: timm/nosuchnet" in out and list(names["kept"]) == names["ranking"].top(2)
    assert "False" in out and (tmp_path / "ranking.csv").exists()  # the callback let the training go on


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_in_the_readme_are_understood(command):
    words = shlex.split(command)[1:]
    assert cli._parser().parse_args(words).subcommand == words[0]


def test_the_readme_opens_with_two_commands_that_do_all_the_set_up():
    first, second = (block.strip() for language, block in BLOCKS[:2])
    assert [language for language, _ in BLOCKS[:2]] == ["sh", "sh"]
    assert first.startswith("python -m venv") and "pip install ." in first and "lswag rank" in first
    assert second.endswith("-m pytest -n 2 --dist loadfile") and "\n" not in first + second
