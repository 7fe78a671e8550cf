"""Write `src/ringpost/blocking/__init__.pyi` from the asynchronous classes: the same signatures without await.

usage: python tools/blocking_stub.py [--check]
"""

import argparse
import ast
import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

SOURCE = Path(__file__).parents[1] / "src"
STUB = SOURCE / "ringpost" / "blocking" / "__init__.pyi"
# Class → the module that has its asynchronous twin, in the order of the stub.
CLASSES = {
    "Ticket": "ringpost.client.ticket",
    "Sender": "ringpost.client.verbs",
    "Caller": "ringpost.client.verbs",
    "Outbox": "ringpost.client.outbox",
    "Client": "ringpost.client.client",
    "Context": "ringpost.service.context",
    "Transaction": "ringpost.service.transaction",
}
AS_THEY_ARE = {"Receipt": "ringpost.client.ticket", "deadline": "ringpost.client.deadline"}
HEAD = '"""Written by tools/blocking_stub.py from the asynchronous classes. Don\'t edit it."""\n'
_WITH = {"__aenter__": "__enter__", "__aexit__": "__exit__"}
_NAMES = {"AsyncIterator": "Iterator", "AsyncGenerator": "Generator"}


class Blocking(ast.NodeTransformer):
    """Turn one asynchronous class into the stub of its blocking one."""

    def __init__(self, aliases: dict[str, ast.expr], made_by_users: bool) -> None:
        self._aliases = aliases
        self._made_by_users = made_by_users

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        bases = [base for base in node.bases if ast.unparse(base) != "ABC"]
        body = [made for member in node.body if (made := self._member(member)) is not None]
        body[:0] = [
            ast.AnnAssign(ast.Name(name), self.visit(kind), None, 1) for name, kind in _assigned(node) if name[0] != "_"
        ]
        final = [one for one in node.decorator_list if ast.unparse(one) == "final"]
        made = ast.ClassDef(node.name, bases, [], body or [ast.Expr(ast.Constant(...))], final)
        return ast.fix_missing_locations(made)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self._aliases:
            return cast(ast.expr, self.visit(copy.deepcopy(self._aliases[node.id])))
        return ast.Name(_NAMES.get(node.id, node.id))

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        if ast.unparse(node) == "Committable | Asyncpg":
            return ast.Name("Commits")  # asyncpg has no session that waits in its thread
        return cast(ast.expr, self.generic_visit(node))

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if ast.unparse(node.value) in ("CoroutineType", "Coroutine") and isinstance(node.slice, ast.Tuple):
            return cast(ast.expr, self.visit(node.slice.elts[2]))  # what awaiting it gives
        if ast.unparse(node.value) == "Literal":
            return node
        return cast(ast.expr, self.generic_visit(node))

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, str):  # an annotation in quotes
            return cast(ast.expr, self.visit(ast.parse(node.value, mode="eval").body))
        return node

    def _member(self, node: ast.stmt) -> ast.stmt | None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = _WITH.get(node.name, node.name)
            public = not name.startswith("_") or name in _WITH.values() or (name == "__init__" and self._made_by_users)
            return self._function(name, node) if public else None
        return None

    def _function(self, name: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.FunctionDef:
        kept = [one for one in node.decorator_list if ast.unparse(one) != "abstractmethod"]
        arguments = node.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.kwarg):
            if argument is not None and argument.annotation is not None:
                argument.annotation = self.visit(argument.annotation)
        if arguments.vararg is not None and arguments.vararg.annotation is not None:
            arguments.vararg.annotation = self.visit(arguments.vararg.annotation)
        returns = None if node.returns is None else self.visit(node.returns)
        return ast.FunctionDef(name, arguments, [ast.Expr(ast.Constant(...))], kept, returns)


def stub() -> str:
    """Give the text of the stub."""
    modules = {module: _parsed(module) for module in {*CLASSES.values(), *AS_THEY_ARE.values()}}
    aliases = {name: value for module in modules.values() for name, value in _aliases(module)}
    classes = [
        Blocking(aliases, name == "Client").visit(_class(modules[module], name)) for name, module in CLASSES.items()
    ]
    body = "\n\n".join(ast.unparse(one) for one in classes)
    names = {node.id for one in classes for node in ast.walk(one) if isinstance(node, ast.Name)} - set(CLASSES)
    imports: dict[str, str] = {name: f"from {module} import {name} as {name}" for name, module in AS_THEY_ARE.items()}
    for name in ("Iterator", "Generator"):
        imports[name] = f"from collections.abc import {name}"
    imports["Commits"] = "from ringpost.contract.vocabulary import Commits"
    for module in modules.values():
        for name, line in _imports(module):
            imports.setdefault(name, line)
    lines = sorted({imports[name] for name in (*names, *AS_THEY_ARE) if name in imports})
    exported = sorted([*CLASSES, *AS_THEY_ARE])
    text = f"{HEAD}\n" + "\n".join(lines) + f"\n\n__all__ = {exported!r}\n\n" + body
    return _formatted(text)


def _assigned(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    """Give the attributes that the constructor makes."""
    for function in node.body:
        if isinstance(function, ast.FunctionDef) and function.name == "__init__":
            for line in ast.walk(function):
                if isinstance(line, ast.AnnAssign) and isinstance(target := line.target, ast.Attribute):
                    yield target.attr, line.annotation


def _parsed(module: str) -> ast.Module:
    return ast.parse((SOURCE / Path(*module.split("."))).with_suffix(".py").read_text())


def _class(module: ast.Module, name: str) -> ast.ClassDef:
    return next(node for node in module.body if isinstance(node, ast.ClassDef) and node.name == name)


def _imports(module: ast.Module) -> Iterator[tuple[str, str]]:
    for node in module.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"from {node.module} import {ast.unparse(alias)}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name, f"import {ast.unparse(alias)}"


def _aliases(module: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Give the names that a module gives to types, to be written out in the stub."""
    for node in module.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if not name.startswith("_") and isinstance(node.value, ast.Subscript | ast.BinOp):
                yield name, node.value


def _formatted(text: str) -> str:
    ruff = ["ruff", "format", "--stdin-filename", str(STUB), "-"]
    checked = [sys.executable, "-m", *ruff]
    ordered = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--select",
        "I",
        "--fix",
        "-q",
        "--stdin-filename",
        str(STUB),
        "-",
    ]
    for command in (ordered, checked):
        text = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    return text


def main() -> int:
    """Write the stub, or with --check say whether it is current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    text = stub()
    if parser.parse_args().check:
        current = STUB.exists() and STUB.read_text() == text
        print("current" if current else f"{STUB} is out of date: run python tools/blocking_stub.py")
        return 0 if current else 1
    STUB.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
