"""What ``resemb`` does before torch is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import resemb_command
from resemb_command import COMMANDS, SPINS, TENSOR_PAGES, WAITING, ask_for_huge_pages, command_of, wait_briefly
from resemb_ext.cli import parser

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own, without the variables that the command sets but those given."""
    clean = {name: value for name, value in os.environ.items() if name not in (*WAITING, TENSOR_PAGES)}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**clean, "PYTHONPATH": str(ROOT), **variables},
    )


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], [], ["no-such"], ["--debug"], ["--no-such", "train"]])
def test_help_and_errors_of_the_root_load_no_torch(arguments):
    done = run(
        "import sys, resemb_command\n"
        f"try: resemb_command.main({arguments!r})\n"
        "except SystemExit as stop: print('status', stop.code)\n"
        "print('loaded', [name for name in ('torch', 'numpy', 'resemb_ext') if name in sys.modules])"
    )
    status = 0 if arguments in (["--help"], ["-h"]) else 2
    assert f"status {status}\nloaded []\n" in done.stdout, done.stderr
    if status:
        assert done.stderr.startswith("resemb: error: ") and done.stderr.count("\n") == 1
    else:
        assert all(f"    {name}" in done.stdout and text[:30] in done.stdout for name, text in COMMANDS.items())


def test_the_root_parser_is_that_of_all_commands():
    everything = parser()
    for name in COMMANDS:
        assert parser(name).format_help() == everything.format_help()


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["train", "--debug"], "train"),
        (["--debug", "graph", "build"], "graph"),
        (["--help", "train"], None),
        (["trains"], None),
        ([], None),
    ],
)
def test_the_command_among_the_arguments(arguments, command):
    assert command_of(arguments) == command


def test_a_command_loads_its_own_module_alone():
    done = run(
        "import sys, resemb_command\n"
        "try: resemb_command.main(['doctor', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted(name for name in sys.modules if name.startswith('resemb_ext.cli.')))"
    )
    assert done.stdout.splitlines()[-1] == "['resemb_ext.cli.doctor']", done.stderr


def test_threads_wait_briefly_unless_told_otherwise(monkeypatch):
    for name in WAITING:
        monkeypatch.delenv(name, raising=False)
    wait_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == str(SPINS)


@pytest.mark.parametrize("name", WAITING)
def test_the_users_way_of_waiting_stays(monkeypatch, name):
    for other in WAITING:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "1")
    wait_briefly()
    assert {other: os.environ.get(other) for other in WAITING} == {
        other: "1" if other == name else None for other in WAITING
    }


def test_the_variables_are_set_before_torch_loads():
    done = run(
        "import os, sys, resemb_command\n"
        "class Finder:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name != 'torch': return\n"
        f"        print('set:', os.environ.get('GOMP_SPINCOUNT'), os.environ.get('{TENSOR_PAGES}'))\n"
        "        sys.exit()\n"
        "sys.meta_path.insert(0, Finder())\n"
        "resemb_command.main(['doctor'])"
    )
    assert done.stdout.splitlines()[-1] == f"set: {SPINS} 1", done.stderr


def test_huge_pages_are_asked_for_unless_told_otherwise(monkeypatch):
    monkeypatch.setenv(TENSOR_PAGES, "0")
    ask_for_huge_pages()
    assert os.environ[TENSOR_PAGES] == "0"
    monkeypatch.delenv(TENSOR_PAGES)
    ask_for_huge_pages()
    assert os.environ[TENSOR_PAGES] == "1"


@pytest.mark.full
def test_torch_lays_large_tensors_on_huge_pages():
    switch = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not switch.exists() or "[never]" in switch.read_text():
        pytest.skip("needs a Linux kernel that gives huge pages")
    done = run(
        "import resemb_command\n"
        "resemb_command.ask_for_huge_pages()\n"
        "import torch\n"
        "tensor = torch.ones(16 << 20)\n"
        "place, flags = tensor.data_ptr(), None\n"
        "for line in open('/proc/self/smaps'):\n"
        "    words = line.split()\n"
        "    if '-' in words[0]:\n"
        "        first, past = (int(at, 16) for at in words[0].split('-'))\n"
        "    elif words[0] == 'VmFlags:' and first <= place + (32 << 20) < past:\n"
        "        flags = words[1:]\n"
        "print('hg' in flags)"
    )
    assert done.stdout.splitlines()[-1] == "True", done.stderr


def test_the_script_is_that_of_the_package():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'resemb = "resemb_command:main"' in text and 'py-modules = ["resemb_command"]' in text
    assert callable(resemb_command.main)
