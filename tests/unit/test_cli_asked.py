"""Numbers on a command line: what is none, or makes no sense, is refused with its reason."""

import click
import pytest
from click.testing import CliRunner

from ringpost.cli.asked import LENGTH, SOME_LENGTH, Rate


def said(kind: click.ParamType, value: str) -> tuple[int, str]:
    @click.command()
    @click.option("--it", type=kind)
    def command(it: float) -> None:
        click.echo(repr(it))

    result = CliRunner().invoke(command, [f"--it={value}"])
    return result.exit_code, result.output


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "0", "1e9", "x"])
def test_no_rate(value: str) -> None:
    code, output = said(Rate(), value)
    assert code == 2
    assert "Invalid value for '--it'" in output


def test_rates() -> None:
    assert said(Rate(), "0.5") == (0, "0.5\n")
    assert said(Rate(none=True), "0") == (0, "0.0\n")


def test_lengths_of_time() -> None:
    assert said(LENGTH, "0s") == (0, "0.0\n")
    assert said(SOME_LENGTH, "500ms") == (0, "0.5\n")
    code, output = said(SOME_LENGTH, "0s")
    assert code == 2
    assert "is over at once" in output
