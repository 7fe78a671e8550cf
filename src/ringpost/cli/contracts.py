"""`ringpost contract`: a contract as a document, and whether a new version of it breaks anybody."""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import click

from ringpost.cli.asked import json_option
from ringpost.cli.output import plain, print_json
from ringpost.cli.running import here_on_path
from ringpost.contract.compatibility import Finding, compared
from ringpost.contract.contract import Contract
from ringpost.contract.document import ContractDocument, document_of, read_document, write_document
from ringpost.contract.errors import UsageError


@click.group()
def contract() -> None:
    """Export a contract, and tell compatible changes of it from breaking ones."""


@contract.command()
@click.argument("target", metavar="MODULE:CONTRACT")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Into this file (default: printed).")
def export(target: str, out: Path | None) -> int:
    """Write a contract as a JSON document, to compare a later version with.

    \b
    Example:
      ringpost contract export accounts:Accounts --out accounts.json
    """
    here_on_path()
    text = write_document(document_of(_load_contract(target)))
    if out is None:
        click.echo(text, nl=False)
        return 0
    try:
        out.write_bytes(text)
    except OSError as error:
        raise UsageError(f"{out} can't be written: {error.strerror}.") from error
    click.echo(f"{target} is in {out}", err=True)
    return 0


@contract.command()
@click.argument("old")
@click.argument("new")
@json_option
def diff(old: str, new: str, as_json: bool) -> int:
    """Say what NEW breaks for those who still have OLD: callers, subscribers, messages that wait.

    Each is module:Contract or a file made by `ringpost contract export`; `-` is such a file on standard input, as in
    git show main:accounts.json | ringpost contract diff - accounts:Accounts. Exit code 1: something breaks.

    \b
    Example:
      ringpost contract diff accounts.json accounts:Accounts
    """
    here_on_path()
    findings = compared(_document(old), _document(new))
    breaking = sum(finding.severity == "breaking" for finding in findings)
    if as_json:
        print_json({"compatible": not breaking, "findings": findings})
    else:
        _print(findings, breaking)
    return 1 if breaking else 0


def _document(target: str) -> ContractDocument:
    if target == "-":
        return read_document(sys.stdin.buffer.read(), "standard input")
    path = Path(target)
    if path.is_file() or ":" not in target:
        try:
            return read_document(path.read_bytes(), target)
        except OSError as error:
            raise UsageError(f"{target} can't be read: {error.strerror}.") from error
    return document_of(_load_contract(target))


def _load_contract(target: str) -> type[Contract]:
    """Import `module:Contract`; errors say which half is wrong."""
    name, _, attribute = target.partition(":")
    if not name or not attribute:
        raise UsageError(f"{target!r} names no contract; write module:Contract, as in accounts:Accounts.")
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, something that it imports isn't: the traceback says what
        raise UsageError(f"there is no module {name!r} here or on the Python path ({target}).") from None
    found = getattr(module, attribute, None)
    if isinstance(found, type) and issubclass(found, Contract) and found is not Contract:
        return found
    known = [
        f"{name}:{key}"
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Contract) and value is not Contract
    ]
    hint = f"; it has {', '.join(known)}" if known else "; it has no Contract at all"
    raise UsageError(f"{target} is {'missing' if found is None else 'no Contract'}{hint}.")


def _print(findings: Sequence[Finding], breaking: int) -> None:
    for finding in findings:
        click.echo(plain(f"{finding.severity:9} {finding.where}: {finding.what}."))
        click.echo(plain(f"          Felt by {finding.who}. To do: {finding.do}."))
    if breaking:
        click.echo(f"{breaking} of {len(findings)} break somebody.")
    else:
        click.echo(f"compatible{f', with {len(findings)} to be careful of' if findings else ''}")
