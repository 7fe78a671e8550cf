"""What the demo says, and whether it was so."""

from rich.console import Console


class Claims:
    """Claims of one run. Those about seconds hold on a machine that has nothing else to do: elsewhere, `timed` False,
    they are told and not judged."""

    def __init__(self, console: Console, *, timed: bool = True) -> None:
        self.console = console
        self.timed = timed
        self.broken: list[str] = []

    def check(self, held: bool, text: str) -> None:
        """Say what came of something."""
        self.console.print(f"  {'[green]✓' if held else '[red]✗'}[/] {text}")
        if not held:
            self.broken.append(text)

    def time(self, held: bool, text: str) -> None:
        """Say how long something took, or what is only so where things are quick."""
        if self.timed:
            self.check(held, text)
        else:
            self.console.print(f"  [dim]·[/] {text}")
