"""What PERCEPT_SHADOW and PERCEPT_CANARY may say, and which version `percept promote` serves."""

from pathlib import Path

import pytest

from service.serving.rollout import CANARY, SHADOW, Rollout, Tag
from tests.command import percept
from tests.serving import FIRST, NEWEST, put, sums_model


def test_what_the_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Rollout.from_environment() == Rollout({}, {})
    monkeypatch.setenv(SHADOW, "digits@v1, my-sums.2@v_1")
    monkeypatch.setenv(CANARY, "digits@v2:5%,sums@a:0.25%,birds@b:100%")
    found = Rollout.from_environment()
    assert found.shadow == {"digits": Tag("digits", "v1"), "my-sums.2": Tag("my-sums.2", "v_1")}
    assert found.canary["digits"] == (Tag("digits", "v2"), 0.05)
    assert [share for _, share in found.canary.values()] == [0.05, 0.0025, 1]
    assert len(found.tags()) == 5


@pytest.mark.parametrize(
    ("shadow", "canary", "reason"),
    [
        ("", None, "expected MODEL@VERSION"),
        ("digits", None, "'digits': expected MODEL@VERSION"),
        ("digits:v1", None, "expected MODEL@VERSION"),
        ("digits@v1@v2", None, "expected MODEL@VERSION"),
        ("@v1", None, "expected MODEL@VERSION"),
        ("digits@", None, "expected MODEL@VERSION"),
        ("../digits@v1", None, "expected MODEL@VERSION"),
        ("digits@../v1", None, "expected MODEL@VERSION"),
        ("digits@v1,", None, "expected MODEL@VERSION"),
        ("digits@v1:5%", None, "expected MODEL@VERSION"),
        ("digits@v1,digits@v2", None, "digits is named twice"),
        (None, "", "expected MODEL@VERSION:PERCENT%"),
        (None, "digits@v1", "expected MODEL@VERSION:PERCENT%"),
        (None, "digits@v1:5", "expected MODEL@VERSION:PERCENT%"),
        (None, "digits@v1:0%", "more than 0"),
        (None, "digits@v1:100.1%", "up to 100"),
        (None, "digits@v1:-5%", "more than 0"),
        (None, "digits@v1:nan%", "more than 0"),
        (None, "digits@v1:1e1%", "more than 0"),
        (None, "digits@v1:٥%", "more than 0"),
        (None, "digits:5%", "expected MODEL@VERSION"),
        (None, "digits@v1:5%,digits@v2:5%", "digits is named twice"),
        ("digits@v1", "digits@v1:5%", "both name digits@v1"),
    ],
)
def test_one_line_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, shadow: str | None, canary: str | None, reason: str
) -> None:
    for variable, text in ((SHADOW, shadow), (CANARY, canary)):
        if text is not None:
            monkeypatch.setenv(variable, text)
    with pytest.raises(ValueError, match=reason) as error:
        Rollout.from_environment()
    assert "PERCEPT_" in str(error.value)
    assert "\n" not in str(error.value)


def test_promote_on_the_command_line(tmp_path: Path) -> None:
    for version in (FIRST, NEWEST):
        put(tmp_path, sums_model(version))

    def lines(*arguments: str) -> tuple[int, str, str]:
        done = percept(*arguments, home=tmp_path)
        return done.returncode, done.stdout, done.stderr

    def served() -> str:
        return (tmp_path / "models" / "sums" / "latest").read_text()

    assert lines("promote", "sums@v1") == (0, "sums: serving v1\n", "")
    assert served() == "v1"
    assert lines("promote", "sums@v2") == (0, "sums: serving v2\n", "")
    assert served() == "v2"
    assert lines("rollback", "sums") == (0, "sums: serving v1\n", "")
    absent = "percept: the model store holds no sums:v9; its versions are v2, v1\n"
    assert lines("promote", "sums@v9") == (1, "", absent)
    assert lines("promote", "absent@v1") == (1, "", "percept: the model store holds no model 'absent'\n")
    for wrong in ("sums", "sums:v1", "sums@", "../sums@v1", "sums@../sums/v1"):
        assert lines("promote", wrong) == (1, "", f"percept: {wrong!r}: expected MODEL@VERSION\n")
    assert served() == "v1"
    (tmp_path / "models" / "sums" / "latest").write_text("")  # as a crash while BentoML writes it leaves it
    assert lines("promote", "sums@v1") == (0, "sums: serving v1\n", "")
    assert served() == "v1"
    put(tmp_path, sums_model("v3"))
    assert served() == "v3"
