"""The log as JSON."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.http import log
from tests.service.helpers import digit_file
from tests.serving import serving, until


def test_all_lines_are_json_with_request_ids(home: Path) -> None:
    with serving(home, PERCEPT_LOG="json", PYTHONIOENCODING="ascii") as server:
        sent = {"x-request-id": "from-the-client-1"}
        answer = httpx.post(f"{server.url}/digits", content=digit_file(3), headers=sent)
        assert answer.headers["x-request-id"] == "from-the-client-1"
        odd = httpx.post(f"{server.url}/digits", content=digit_file(3)[:50], headers={"x-request-id": "<script>" * 20})
        assert re.fullmatch("[0-9a-f]{16}", odd.headers["x-request-id"])

        nowhere = httpx.get(f"{server.url}/höhe")

        def lines() -> list[dict[str, Any]]:
            return [json.loads(line) for line in server.log.read_text("ascii").splitlines()]

        ids = {sent["x-request-id"], odd.headers["x-request-id"], nowhere.headers["x-request-id"]}
        until(lambda: ids <= {line.get("request_id") for line in lines()})  # written once the answer is sent
        by_id = {line["request_id"]: line for line in lines() if "request_id" in line}
        line = by_id["from-the-client-1"]
        assert line["logger"] == "percept.requests"
        assert (line["method"], line["route"], line["status"], line["model"]) == ("POST", "/digits", 200, "digits")
        assert (line["label"], line["known"]) == (answer.json()["label"], answer.json()["known"])
        assert line["bytes"] == len(digit_file(3))
        assert by_id[odd.headers["x-request-id"]]["status"] == 400
        assert by_id[nowhere.headers["x-request-id"]]["path"] == "/höhe"
        messages = [line.get("message", "") for line in lines()]
        assert any(message.startswith("serving digits:") for message in messages)
        assert messages[0].startswith("Starting production HTTP BentoServer")  # said by the supervisor


def test_formats_other_than_json_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(log.VARIABLE, "xml")
    with pytest.raises(ValueError, match="PERCEPT_LOG=xml: expected json"):
        log.wanted()
