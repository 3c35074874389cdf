"""What a report is made of, whatever it is printed on: numbers with their intervals, tables and sections."""

from dataclasses import dataclass, field
from typing import Any

# Who a row or a line stands for; it decides on the colour.
WORLD, READOUT, BASELINE, LIMIT, PLAIN = "world", "readout", "baseline", "limit", "plain"


@dataclass(frozen=True)
class Number:
    """A figure and its 95 % interval; None is shown as a dash.

    >>> Number(3.5, 2.9, 4.1, digits=1).full, Number(3.5, 2.9, 4.1, digits=1).brief
    ('3.5 (2.9 to 4.1)', '3.5 ± 0.6')
    >>> Number(0.62, 0.56, 0.69, percent=True).full
    '62 % (56 to 69)'
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    digits: int = 2
    percent: bool = False

    @classmethod
    def of(cls, entry: dict[str, Any] | None, digits: int = 2, percent: bool = False) -> "Number":
        """From what `sana_wm.evaluation.intervals` and the parts return: mean, rate, value or r2, with low and high."""
        if entry is None:
            return cls(None)
        value = next((entry[key] for key in ("mean", "rate", "value", "r2") if key in entry), None)
        return cls(value, entry.get("low"), entry.get("high"), digits, percent)

    @property
    def text(self) -> str:
        """Without the interval."""
        return "–" if self.value is None else self._written(self.value) + (" %" if self.percent else "")

    @property
    def interval(self) -> str:
        """Empty where there is none."""
        if self.value is None or self.low is None or self.high is None:
            return ""
        return f"{self._written(self.low)} to {self._written(self.high)}"

    @property
    def full(self) -> str:
        return f"{self.text} ({self.interval})" if self.interval else self.text

    @property
    def brief(self) -> str:
        """For narrow columns: fewer digits, and half the width of the interval."""
        if not self.interval:
            return self.text
        if self.percent:  # rates near 0 and 1 have lopsided intervals
            return f"{self._written(self.value, 9)} % ({self._written(self.low, 9)} to {self._written(self.high, 9)})"
        fewer = 1 if abs(self.value) >= 10 else 0
        return f"{self._written(self.value, fewer)} ± {self._written((self.high - self.low) / 2, fewer)}"

    def _written(self, value: float, fewer: int = 0) -> str:
        value, digits = (100 * value, self.digits - 2) if self.percent else (value, self.digits)
        digits = max(0, digits - fewer)
        text = f"{value:,.{digits}f}"
        return text.replace("-", "−") if float(text.replace(",", "")) else text.lstrip("-")


Cell = Number | str


@dataclass(frozen=True)
class Row:
    words: str
    cells: tuple[Cell, ...] = ()
    kind: str = PLAIN

    @property
    def heads_group(self) -> bool:
        """Whether the rows below belong under it."""
        return not self.cells


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Chart:
    title: str
    svg: str


@dataclass(frozen=True)
class Section:
    """One part of the report.

    Attributes:
        means: what the numbers say, in one sentence. how: how they were measured.
        films: names and captions of strips in the report's folder.
    """

    key: str
    title: str
    means: str
    how: str
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    films: tuple[tuple[str, str], ...] = field(default_factory=tuple)
