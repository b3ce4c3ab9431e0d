"""The sentences of the audit's page."""

import re

from pipeline.audit.page import _rendered
from pipeline.audit.suspects import Suspect


def test_sentences_stand_apart() -> None:
    found = [Suspect(file=f"{i}.png", kind="label", label="a", suggested="b", score=1, reason="b is likelier than a",
                     resembles=[], split="train") for i in range(3)]  # fmt: skip
    shown = [*found[:2], {"kind": "unlabelled"}]
    data = {"task": "letters", "suspects": shown, "media": {}, "rows": {"rows": {}, "files": True}}
    page = _rendered(data, found, [], 1)
    head = re.sub(r"\s+", " ", page[page.index("<h1>") : page.index("</header>")])
    assert "3 labels. 1 unlabelled files" not in head
    assert "3 labels. 1 unlabelled file. The 2 likeliest are here, all are in audit.json." in head
