"""A local SMTP server with mailboxes that can be looked at: one .eml file a letter, repeats dropped by Message-ID."""

from collections import Counter
from email import message_from_bytes
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller


class Mailboxes:
    """Keep what arrives. `refuse` holds addresses whose mailbox says no (550), as a deleted account's does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refuse: set[str] = set()
        self.arrived: Counter[str] = Counter()  # how often each Message-ID came
        self.by_address: Counter[str] = Counter()  # letters kept, so without repeats
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def letters(self) -> int:
        return len(self.arrived)

    @property
    def repeats(self) -> int:
        return self.arrived.total() - len(self.arrived)

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address in self.refuse:
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        letter = message_from_bytes(envelope.content)
        message_id = letter["Message-ID"].strip("<>")
        self.arrived[message_id] += 1
        if self.arrived[message_id] == 1:
            self.by_address[envelope.rcpt_tos[0]] += 1
            (self.folder / f"{message_id}.eml").write_bytes(envelope.content)
        return "250 OK"


class PostOffice:
    """The server, in a thread of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.boxes = Mailboxes(folder)
        self.address = f"127.0.0.1:{port}"
        self._controller = Controller(self.boxes, hostname="127.0.0.1", port=port)

    def __enter__(self) -> Mailboxes:
        self._controller.start()
        return self.boxes

    def __exit__(self, *exc: object) -> None:
        self._controller.stop()
