"""The fenced blocks of the documentation's pages, which tests run."""

import re
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parent.parent / "docs"


class Block(NamedTuple):
    """One fenced block: its language, "" for commands of a shell, its text, and the line of the page it begins on."""

    language: str
    text: str
    line: int

    def commands(self) -> list[str]:
        """The commands of a block for a shell, those broken over several lines joined."""
        return [line for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page of docs/ in order."""
    text = (DOCS / page).read_text("utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(block[1], block[2], text[: block.start()].count("\n") + 1) for block in found]
