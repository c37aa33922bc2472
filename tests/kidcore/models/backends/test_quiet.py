"""Chatter of every kind in, silence out; in processes of their own, because pytest replaces stdout."""

import subprocess
import sys

_CHATTER = """
import os, subprocess, sys, warnings
from kidcore.models.backends.quiet import quiet

def chatter():
    print("python")
    print("python errors", file=sys.stderr)
    os.write(1, b"descriptor\\n")
    subprocess.run([sys.executable, "-c", "print('child')"], check=True)
    warnings.warn("a warning", FutureWarning)
"""


def _run(body: str) -> tuple[str, str]:
    done = subprocess.run([sys.executable, "-c", _CHATTER + body], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, done.stderr


def test_nothing_gets_out() -> None:
    body = """
print("before")
with quiet(verbose=False):
    chatter()
print("after")
os.write(2, b"after errors\\n")
"""
    assert _run(body) == ("before\nafter\n", "after errors\n")


def test_last_lines_are_at_hand_when_the_engine_fails() -> None:
    body = """
try:
    with quiet(verbose=False) as last_lines:
        for number in range(2000):
            os.write(2, b"line %d\\n" % number)
        cause = last_lines()
        raise ValueError
except ValueError:
    print(cause)
"""
    assert _run(body) == ("".join(f"line {number}\n" for number in range(1988, 2000)), "")


def test_verbose_lets_all_through() -> None:
    out, err = _run("with quiet(verbose=True) as last_lines:\n    chatter()\nassert last_lines() == ''")
    assert sorted(out.split()) == ["child", "descriptor", "python"]
    assert "python errors" in err
    assert "a warning" in err
