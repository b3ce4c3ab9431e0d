"""What the columns of a table hold: numbers, categories, or nothing that a network can learn from."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

ABSENT = frozenset((  # what a missing value is written as, in lower case, by R, pandas, databases and Excel
    "", "?", "nan", "nat", "na", "n/a", "<na>", "#na", "null", "(null)", "\\n",
    "#n/a", "#div/0!", "#value!", "#ref!", "#name?", "#num!", "#null!",
))  # fmt: skip
MISSING = ABSENT | {  # and what means one in a column of numbers, but may be the name of a category
    "none", "-", "\u2013", "\u2014", "nil", "missing", "unknown", ".", "--",
    "inf", "+inf", "-inf", "infinity", "-infinity",
}  # fmt: skip
CATEGORIES = 1000  # different texts in a column, at most
SNIFFED = 1000  # rows by which the decimal sign of a column's numbers is found
TELLING = 10  # different numbers of three digits behind a sign, at least, that tell by the whole numbers beside them
REPEATS = 2  # rows for each different text, at least, on average; fewer are names or free text
NUMBERS = 0.95  # share of a column's values that must be numbers, for the others to count as missing
LARGEST = float(np.finfo(np.float32).max)

_PLAIN = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_GAPS = " '\u2019\u00a0\u2009\u202f"  # between thousands, besides the comma or point that is no decimal sign
_THOUSANDS = re.compile(  # 1,234,567, or 12,34,567 in India
    rf"[+-]?(?:\d{{1,3}}(?:[,.{_GAPS}]\d{{3}})+|\d{{1,2}}(?:,\d{{2}})+,\d{{3}})"
)
_UNIT = re.compile(r"[%$£¥\u20a0-\u20cf]")  # percent, or a currency
_BESIDE = re.compile(  # in front of a number or behind it, not between two
    rf"(?<!\s)(?:(?<![\d.,])\s*{_UNIT.pattern}\s*|\s*{_UNIT.pattern}\s*(?![\d.,\s]))"
)
_EITHER = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3}|\.\d{3})")  # the sign is the decimal one, or one between thousands
_SAYS_COMMA, _SAYS_POINT = (
    re.compile(
        rf"[+-]?(?:(?:\d*|\d{{1,3}}(?:[{other}{_GAPS}]\d{{3}})+){sign}\d+(?:[eE][+-]?\d+)?|\d{{1,3}}(?:{other}\d{{3}}){{2,}})"
    )
    for sign, other in ((",", r"\."), (r"\.", ","))
)
MINUSES = "-\u2212\u2013"  # also that of mathematics, and the dash that stands for it in print
_MINUS = str.maketrans(dict.fromkeys(MINUSES, "-"))
_WHOLE = re.compile(r"[+-]?\d+")
_PADDED = re.compile(r"0\d+")
_DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}(?:[T ].*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}(?: .*)?|\d{1,2}:\d{2}(?::\d{2}.*)?"
)
_ID = re.compile(
    r"|(?:row|line|record|sample|s|sr|sl|lfd)?[ ._-]{,2}(?:id|idx|index|nr|no|number|key)[.#]?|#|№|"
    r"row[ _.-]?names?|level_\d+|.+[ _-]id|uuid|"
    r"unnamed: [\d.]+|__index_level_\d+__"  # pandas' index, from CSV and in Parquet
)
_CAMEL_ID = re.compile(r".*[a-z]I[dD]", re.DOTALL)


def parse_number(text: str, comma: bool = False) -> float | None:
    """The number that a cell writes; None if it writes none.

    Parameters
    ----------
    comma : it is the decimal sign, and a point or a space between thousands

    Example
    -------
    >>> [parse_number(text) for text in (" -1.5e3 ", "1,234", "12 %", "($3)", "12-", "1_0", "inf")]
    [-1500.0, 1234.0, 12.0, -3.0, -12.0, None, None]
    >>> parse_number("1.234,5", comma=True)
    1234.5
    """
    text = _bare(text)
    if comma:
        whole, _, part = text.partition(",")
        whole = re.sub(rf"[.{_GAPS}]", "", whole) if _THOUSANDS.fullmatch(whole) else whole
        text = f"{whole}.{part}" if part else whole
    elif not _PLAIN.fullmatch(text):
        whole, point, part = text.partition(".")
        if _THOUSANDS.fullmatch(whole) and "." not in part:
            text = re.sub(rf"[,{_GAPS}]", "", whole) + point + part
    if not _PLAIN.fullmatch(text):
        return None
    number = float(text)
    return number if abs(number) <= LARGEST else None


def decimal_commas(columns: Sequence[Sequence[str]], delimiter: str, learned: Sequence[bool] = ()) -> list[bool]:
    """Whether the commas in the numbers of each column are decimal signs, and the points between thousands.

    1,234 and 1.234 do not tell: a column of nothing else is read as most columns of the file that do tell; where none
    does, as the model's training table was.

    Parameters
    ----------
    learned : what was found for each column of that table; empty where there is no model

    Example
    -------
    >>> decimal_commas([["1,5", "2"], ["1.234", "12.000"], ["3", "4"]], ";")
    [True, True, True]
    >>> decimal_commas([["1.5", "2"], ["1,234", "12,000"]], ",")
    [False, False]
    >>> decimal_commas([["1.234"]], ";", [True])
    [True]
    """
    signs = [_decimal_sign(cells) for cells in columns]
    n_commas, n_points = signs.count(","), signs.count(".")
    if n_commas == n_points and learned:
        others = learned
    else:
        if delimiter == ";" and not n_points:  # Excel's, where the comma is the decimal sign
            n_commas += signs.count("?,")
        others = [n_commas > n_points] * len(signs)
    return [sign == "," or (sign != "." and other) for sign, other in zip(signs, others, strict=True)]


def _decimal_sign(cells: Sequence[str]) -> str:
    """The decimal sign of a column's numbers, behind a "?" if it may be one between thousands; "" if they have none.

    Many numbers like 1.234, numbers like 250, and none like 1500 do tell: the sign stands between thousands.
    """
    bare = {_bare(cell) for cell in cells}
    texts = {text for text in bare if "," in text or "." in text}
    either = {text for text in texts if _EITHER.fullmatch(text)}
    n_commas, n_points = (
        sum(pattern.fullmatch(text) is not None for text in texts - either) for pattern in (_SAYS_COMMA, _SAYS_POINT)
    )
    if n_commas or n_points:
        return "," if n_commas > n_points else "."
    if not either:
        return ""
    has_comma = any("," in text for text in either)
    digits = max((len(text.lstrip("+-")) for text in bare if _WHOLE.fullmatch(text)), default=0)
    if digits == 3 and len(either) >= TELLING:
        return "." if has_comma else ","
    return "?," if has_comma else "?."


def _bare(cell: str) -> str:
    """What a cell holds, without a percent sign or that of a currency; a minus is in front, which spreadsheets write as
    parentheses, and SAP behind the number."""
    text = cell.strip().translate(_MINUS)
    if _UNIT.search(text):
        text = _BESIDE.sub("", text, count=1)
    if text[:1] == "(" and text[-1:] == ")":
        return f"-{text[1:-1].strip()}"
    return f"-{text[:-1].rstrip()}" if text[-1:] == "-" else text


@dataclass(slots=True)
class Column:
    """One column as it is read: the number and the text of each row.

    comma : whether it is the decimal sign of numbers in text; None where they are no text
    numbers : float64 (N,), NaN where there is none, in pieces while it is read
    codes : int32 (N,), index into texts, -1 where the cell is empty or there are too many texts
    """

    name: str
    has_name: bool = True  # in the file
    comma: bool | None = None
    texts: dict[str, int] = field(default_factory=dict)
    pieces: list[NDArray[np.float64]] = field(default_factory=list)
    code_pieces: list[NDArray[np.int32]] = field(default_factory=list)
    n_numbers: int = 0
    n_words: int = 0  # cells that are neither a number nor missing
    n_dates: int = 0
    n_padded: int = 0  # whole numbers with zeros in front
    first_word: str = ""
    units: set[str] = field(default_factory=set)  # percent and currencies, by their signs
    limit: int = CATEGORIES

    def add(self, cells: Sequence[str]) -> None:
        """Read the cells of more rows."""
        numbers = self._parsed(cells)
        self.pieces.append(numbers)
        self.code_pieces.append(self._coded(cells))
        self.n_numbers += int((~np.isnan(numbers)).sum())
        self.n_padded += sum(1 for cell in cells if cell[:1] == "0" and _PADDED.fullmatch(cell.strip()))
        for i in np.flatnonzero(np.isnan(numbers)).tolist():
            text = cells[i].strip()
            if text.lower() not in MISSING:
                self.n_words += 1
                self.first_word = self.first_word or text
                self.n_dates += bool(_DATE.fullmatch(text))

    def _parsed(self, cells: Sequence[str]) -> NDArray[np.float64]:
        """The number in each cell, NaN where there is none."""
        with suppress(ValueError):  # most columns hold plain numbers, which `float` reads ten times as fast
            numbers, joined = np.array([float(cell or "nan") for cell in cells]), "".join(cells)
            if not (np.abs(numbers) > LARGEST).any() and "_" not in joined and not (self.comma and "." in joined):
                return numbers
        found: dict[str, float] = {}
        for cell in cells:
            if cell not in found:
                number = parse_number(cell, bool(self.comma))
                found[cell] = np.nan if number is None else number
                if number is not None:
                    self.units.update(_UNIT.findall(cell))
        return np.array([found[cell] for cell in cells])

    def _coded(self, cells: Sequence[str]) -> NDArray[np.int32]:
        codes, texts = np.full(len(cells), -1, np.int32), self.texts
        if len(texts) > self.limit:
            return codes
        for i, cell in enumerate(cells):
            text = normalize("NFC", cell.strip())
            if text.lower() not in ABSENT:
                codes[i] = texts.setdefault(text, len(texts))
                if len(texts) > self.limit:
                    break
        return codes

    def finish(self) -> None:
        """Join what was read."""
        self.pieces, self.code_pieces = [np.concatenate(self.pieces)], [np.concatenate(self.code_pieces)]

    @property
    def numbers(self) -> NDArray[np.float64]:
        return self.pieces[0]

    @property
    def codes(self) -> NDArray[np.int32]:
        return self.code_pieces[0]

    @property
    def is_numeric(self) -> bool:
        """Whether it holds numbers: (nearly) all values are, and none has zeros in front, as codes do. Nor are those
        that repeat numbers where all are in parentheses, or all end in a minus: (212) is a code then, (1,2) a pair."""
        words_allowed = self.n_numbers * (1 - NUMBERS) / NUMBERS if len(self.texts) > 20 else 0
        are_codes = self._repeats and any(
            all(text[at] in signs for text in self.texts) for at, signs in ((0, "("), (-1, MINUSES))
        )
        return self.n_numbers > 0 and self.n_words <= words_allowed and not self.n_padded and not are_codes

    @property
    def n_different(self) -> int:
        """How many different values it has, up to `limit`."""
        return len(self.texts)

    def unusable(self) -> str:
        """Why a network cannot learn from it; "" if it can."""
        n_present = self.n_numbers + self.n_words
        if not n_present:
            return "empty"
        if self.is_numeric:
            numbers = self.numbers[~np.isnan(self.numbers)]
            if numbers.min() == numbers.max() and n_present == len(self.numbers):
                return "constant"
            return "a number of the row" if self._counts_rows(numbers) else ""
        if self.n_dates > n_present / 2:
            return "dates"
        if len(self.texts) == 1 and n_present == len(self.numbers):
            return "constant"
        return "" if self._repeats else "free text or names"

    @property
    def has_fractions(self) -> bool:
        return bool((np.mod(self.numbers, 1) > 0).any())

    @property
    def is_blurred(self) -> bool:
        """Whether float32 makes most of its different numbers equal, as a minute's milliseconds since 1970."""
        numbers = self.numbers[~np.isnan(self.numbers)]
        if np.ptp(numbers) >= len(numbers) * np.spacing(np.float32(np.abs(numbers).max())):  # there is one for each
            return False
        return 2 * len(np.unique(numbers.astype(np.float32))) < len(np.unique(numbers))

    @property
    def _repeats(self) -> bool:
        """Whether it has so few different texts that they may be categories."""
        return 0 < len(self.texts) <= self.limit and len(self.texts) * REPEATS <= self.n_numbers + self.n_words

    def _counts_rows(self, numbers: NDArray[np.float64]) -> bool:
        """Whether it is called an id and no two rows share one."""
        name = self.name.strip() if self.has_name else ""
        if not _ID.fullmatch(name.lower()) and not _CAMEL_ID.fullmatch(name):
            return False
        return bool((numbers == np.trunc(numbers)).all()) and len(np.unique(numbers)) == len(numbers)
