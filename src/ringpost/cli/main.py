"""The `ringpost` command: its subcommands, its errors of one line, its exit codes.

Exit codes: 0 done; 1 the answer was a no (a Problem, a failed or dead message, a check that failed); 2 the command or
its arguments are wrong; 3 nobody answered, or not in time; 4 the store can't be used; 130 interrupted.
"""

from importlib import import_module
from typing import IO, Any

import click

from ringpost import __version__
from ringpost.contract.errors import RingpostError, StoreError, TransportError, UsageError

# name → module:attribute and its one line of help, so that `ringpost --help` imports none of them
COMMANDS = {
    "run": ("ringpost.cli.running:run", "Serve services over HTTP and work their messages."),
    "relay": ("ringpost.cli.relaying:relay", "Bring messages from an outbox table to the store."),
    "outbox": ("ringpost.cli.outbox:outbox", "Make an outbox table, and look into it."),
    "call": ("ringpost.cli.calling:call", "Call an operation and print its answer."),
    "send": ("ringpost.cli.sending:send", "Send a request as a message and print its ticket."),
    "publish": ("ringpost.cli.sending:publish", "Publish an event to its subscribers."),
    "ticket": ("ringpost.cli.tickets:ticket", "Show, follow or cancel what was sent."),
    "queues": ("ringpost.cli.queues:queues", "Show what waits, how long, and who works it."),
    "maintenance": ("ringpost.cli.maintenance:maintenance", "Close services for a time, and open them again."),
    "dead": ("ringpost.cli.dead.commands:dead", "List, show, replay, edit and drop dead letters."),
    "subscriptions": ("ringpost.cli.subscriptions:subscriptions", "List and remove subscriptions to events."),
    "explain": ("ringpost.cli.explain:explain", "Say where a call and a message go, what holds, and who said so."),
    "breakers": ("ringpost.cli.breakers:breakers", "Show which calls are broken off; hold a breaker open or closed."),
    "contract": ("ringpost.cli.contracts:contract", "Export a contract; tell compatible changes from breaking ones."),
    "check": ("ringpost.cli.check:check", "Say which messages that wait or are dead new code can't read."),
    "backup": ("ringpost.cli.backup:backup", "Copy the store while everything runs."),
    "restore": ("ringpost.cli.backup:restore", "Make the store of a backup again."),
    "move": ("ringpost.cli.move:move", "Move all messages from one store to another."),
    "doctor": ("ringpost.cli.doctor:doctor", "Check configuration, store and services, and say what to do."),
    "init": ("ringpost.cli.start:init", "Make a small project that runs."),
}
INTERRUPTED = 130


class LazyGroup(click.Group):
    """Load a subcommand when it is used: starting `ringpost call` must not pay for `ringpost run`.

    A subcommand gives its exit code, and raises what the library raises.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a subcommand; whatever goes wrong with what was asked is one line on standard error."""
        try:
            code = super().invoke(ctx)
        except RingpostError as error:
            raise OneLine(str(error), exit_code(error)) from error
        except click.UsageError as error:
            where = ctx.command_path if error.ctx is None else error.ctx.command_path
            raise OneLine(f"{_sentence(error.format_message())} See {where} --help.", 2) from error
        except (KeyboardInterrupt, click.Abort):
            click.echo(err=True)  # the shell's prompt belongs on a line of its own
            ctx.exit(INTERRUPTED)
        ctx.exit(code if isinstance(code, int) else 0)


class OneLine(click.ClickException):
    """Say in one line what is wrong and what to do, and end with an exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """Give the exit code; click keeps one for each class of errors."""
        return self.code

    def show(self, file: IO[Any] | None = None) -> None:
        # What others wrote may be in it: nothing of that may steer the terminal.
        line = "".join(character if character.isprintable() else " " for character in self.message)
        click.echo(f"ringpost: {' '.join(line.split())}", file=file, err=file is None)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ringpost")
def ringpost() -> None:
    """Call it or send it: one operation, reached in both ways.

    NAME is always contract.operation (or contract.event). A REQUEST is JSON, `@file`, or `-` for standard input.

    \b
    Exit codes: 0 done, 1 the answer was a no, 2 wrong arguments, 3 nobody answered, 4 the store can't be used.
    """


def exit_code(error: BaseException) -> int:
    """Map an error to the exit code that the module's head promises."""
    match error:
        case UsageError():
            return 2
        case TransportError():
            return 3
        case StoreError():
            return 4
        case _:
            return 1


def main() -> None:
    """Run the command line; the entry point of `ringpost`."""
    ringpost()


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."
