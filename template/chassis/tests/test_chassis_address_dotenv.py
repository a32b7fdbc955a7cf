"""`.env`: read as python-dotenv reads it, or refused with a line, and never slowly."""

import io
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
from dotenv import dotenv_values
from pydantic_settings import SettingsError

from chassis import ChassisSettings
from chassis.commands.variables import MOST_WARNINGS, find_warnings
from chassis.db.address.dotenv import MAX_BYTES, parse_dotenv, read_dotenv

MARKED = "s3cret"
PARTS = (
    *("A", "B=", "=", "'", '"', "\\", "n", " ", "#", "\n", "$", "é", "\t", ":"),
    *("${A}", "${Z:-d}", "\nA=", "\nB='", '\nC="', "export ", "'\n", '"\n'),
)


def refusal(text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        parse_dotenv(text)
    assert MARKED not in str(caught.value)
    return str(caught.value)


def test_what_is_read_is_what_python_dotenv_reads() -> None:
    chance = random.Random("assignments")
    compared = 0
    for _ in range(6_000):
        text = "A=1\n" + "".join(chance.choices(PARTS, k=chance.randint(1, 8)))
        try:
            ours = {one.name: one.text for one in parse_dotenv(text)}
        except SettingsError:
            continue
        if "export" in ours or ("'" in text and "${" in text):
            continue
        compared += 1
        assert ours == dotenv_values(stream=io.StringIO(text)), repr(text)
    assert compared > 300


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("A=1\n\n# a comment\nB: s3cret", 4, "is no assignment; write NAME=value"),
        ('A="1\n2"\nthe password is s3cret', 3, "is no assignment"),
        ("A='s3cret", 1, "the quotation mark before the value of A is not closed"),
        ("A=1\nB='s3cret\nC=2\n", 2, "the quotation mark before the value of B is not closed"),
        ("B='s3cret\nexport app_x = 2'", 1, "the quotation mark before the value of B"),
        ("B='s3cret\nDATABASE_URL=2'", 1, "the quotation mark before the value of B"),
        ("A=1\nB='s3'cret", 2, "the quotation mark before the value of B"),
        ("B=s3cret'", 1, "the value of B ends in a quotation mark that was not opened"),
        ("B=${s3cret}", 1, "the value of B has a ${…} whose variable is not set"),
        ('B="a${s3cret}b"', 1, "the value of B has a ${…} whose variable is not set"),
        ("B=${s3cret:+x}", 1, "the value of B has a ${…} that is neither"),
        ("s3cret=1\nB=$s3cret", 2, "the value of B has a variable without braces"),
        ("A=${B}\nB=1", 1, "the value of A has a ${…} whose variable is not set"),
    ],
)
def test_a_line_that_cant_be_meant_is_named(text: str, line: int, says: str) -> None:
    text = text.replace("s3cret=1", f"{MARKED}=1")
    assert refusal(text).startswith(f".env, line {line}: {says}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A='${HOME}'", "${HOME}"),
        ("A='pa$$w${x}'", "pa$$w${x}"),
        ("HOME_=1\nA='$HOME_ ${HOME_'", "$HOME_ ${HOME_"),
        ("A=pa$word", "pa$word"),
        ("A=${", "${"),
        ("A=${B:-}", ""),
    ],
)
def test_single_quotes_and_lone_dollars_are_literal(text: str, value: str) -> None:
    assert parse_dotenv(text)[-1].text == value


def write_folder(file: Path) -> None:
    file.mkdir()


def write_dangling_link(file: Path) -> None:
    file.symlink_to("missing")


def write_latin_1(file: Path) -> None:
    file.write_bytes(b"A=1\nB=\xe9\n")


def write_utf_16(file: Path) -> None:
    file.write_text("A=1", encoding="utf-16-le")


def write_too_much(file: Path) -> None:
    file.write_bytes(b"A=1\n" * (MAX_BYTES // 4 + 1))


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (write_folder, ".env is a folder, as Docker makes one"),
        (write_dangling_link, ".env is a link to a file that does not exist"),
        (write_latin_1, ".env, line 2: is not UTF-8 text"),
        (write_utf_16, ".env, line 1: is not UTF-8 text"),
        (write_too_much, ".env has more than 256 KiB"),
    ],
)
def test_a_file_that_is_none_of_settings_is_one_line(
    write: Callable[[Path], None], says: str
) -> None:
    write(Path(".env"))
    with pytest.raises(SettingsError) as caught:
        ChassisSettings()
    assert str(caught.value).startswith(says)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_this_user_may_not_read_is_one_line() -> None:
    Path(".env").touch(0o000)
    with pytest.raises(SettingsError, match=r"^\.env can't be read"):
        read_dotenv()


@pytest.mark.skipif(os.name == "nt", reason="needs a FIFO")
def test_a_pipe_is_read_as_password_managers_mount_one() -> None:
    os.mkfifo(".env")
    writer = Thread(target=Path(".env").write_text, args=("A=1\n",))
    writer.start()
    assert [one.text for one in read_dotenv()] == ["1"]
    writer.join()


def test_a_large_file_is_read_in_a_moment_and_warned_of_in_a_few_lines() -> None:
    lines = [f"APP_X{number}=${{APP_X0:-1}}\n" for number in range(8_000)]
    Path(".env").write_text("".join(["APP_X0=1\n", *lines]))
    started = time.process_time()
    ChassisSettings()
    warnings = list(find_warnings(ChassisSettings))
    assert time.process_time() - started < 1.5
    assert len(warnings) == MOST_WARNINGS + 1
