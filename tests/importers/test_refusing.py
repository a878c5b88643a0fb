"""Bad input is refused whole, with the row as people see it, the value and the remedy."""

import gzip
import io
import json
from typing import Any

import pytest

from app.errors import ServiceError
from app.importers import lines, read, read_rows

GOOD = "N,D,loss\n1e8,2e9,3.5\n"


def refused(text: str | bytes, **options: Any) -> ServiceError:
    raw = text.encode() if isinstance(text, str) else text
    with pytest.raises(ServiceError) as caught:
        read(io.BytesIO(raw), **options)
    error = caught.value
    assert error.hint, "a refusal says what to do"
    return error


@pytest.mark.parametrize(
    ("text", "row", "column", "value"),
    [
        pytest.param("", 1, None, None, id="empty file"),
        pytest.param("\n\n", 1, None, None, id="blank first row"),
        pytest.param("N,D,loss\n", 2, None, None, id="header alone"),
        pytest.param("N,loss\n1e8,3\n", 1, "D", None, id="missing column"),
        pytest.param(GOOD + "7B,2e9,3\n", 3, "N", "7B", id="suffix"),
        pytest.param(GOOD + "1e8,lots,3\n", 3, "D", "lots", id="text"),
        pytest.param(GOOD + "1e8,2e9,nan\n", 3, "loss", "nan", id="NaN"),
        pytest.param(GOOD + "1e8,2e9,-inf\n", 3, "loss", "-inf", id="infinite"),
        pytest.param(GOOD + "1e8,2e9,1e400\n", 3, "loss", "1e400", id="overflow"),
        pytest.param(GOOD + "1e8,2e9,0\n", 3, "loss", "0", id="zero loss"),
        pytest.param(GOOD + "1e8,2e9,-3\n", 3, "loss", "-3", id="negative loss"),
        pytest.param(GOOD + "-1e8,2e9,3\n", 3, "N", "-1e8", id="negative N"),
        pytest.param(GOOD + "0,2e9,3\n", 3, "N", "0", id="zero N"),
        pytest.param(GOOD + "1e8,2e9,\n", 3, "loss", None, id="empty cell"),
        pytest.param(GOOD + "1e8,2e9\n", 3, None, "1e8,2e9", id="short row"),
        pytest.param(GOOD + "1_0,2e9,3\n", 3, "N", "1_0", id="underscore"),
        pytest.param("N,D,loss,N\n1,2,3,4\n", 1, "N", None, id="header twice"),
        pytest.param("N,D,loss,val_loss,eval_loss\n", 2, None, None, id="ours wins, no rows"),
        pytest.param("N,D,val_loss,eval_loss\n1,2,3,4\n", 1, "loss", None, id="two losses"),
        pytest.param(
            "run,N,D,loss\na,1,2,3\nb,1,2,4\na,1,2,3.5\n", 4, "loss", 3.5, id="contradiction"
        ),
        pytest.param(
            "N,D,loss,loss_unit\n1,2,3,nats/token\n1,2,3,bits/byte\n",
            3, "loss_unit", "bits/byte", id="mixed units",
        ),
        pytest.param(
            "N,D,loss,loss_unit\n1,2,3,bananas\n", 2, "loss_unit", "bananas", id="unknown unit"
        ),
        pytest.param("run,step,loss\na,1,3\na,2,x\n", 3, "loss", "x", id="curve: text"),
        pytest.param("run,step,loss\na,1,3\na,1,4\n", 3, "loss", 4.0, id="curve: two values"),
        pytest.param("run,step,loss\na,1.5,3\n", 2, "step", "1.5", id="curve: half a step"),
        pytest.param("run,step,loss\na,-1,3\n", 2, "step", "-1", id="curve: before the start"),
        pytest.param("run,step,loss\n,1,3\n", 2, "run", None, id="curve: no name"),
        pytest.param("run,step,loss,lr\na,1,3,-1\n", 2, "lr", "-1", id="curve: negative rate"),
        pytest.param("run,step,loss,N\na,1,3,5\na,2,3,6\n", 3, "N", 6.0, id="curve: two sizes"),
    ],
)  # fmt: skip
def test_a_csv_is_refused_with_its_row(text: str, row: int, column: str | None, value: Any) -> None:
    error = refused(text)
    assert (error.row, error.column, error.value) == (row, column, value)


@pytest.mark.parametrize(
    ("raw", "row"),
    [
        pytest.param(b"N,D,loss\n1e8,2e9,3\n1e8,2e9,\xff\xfe\n", 3, id="not UTF-8"),
        pytest.param(b"N,D,loss\n1\x00,2,3\n", 2, id="NUL"),
        pytest.param(b'N,D,loss\n1,2,"3\n', 2, id="open quote"),
        pytest.param("N,D,loss".encode("utf-16"), 1, id="UTF-16"),
    ],
)
def test_bytes_that_are_no_text_are_refused(raw: bytes, row: int) -> None:
    assert refused(raw).row == row


@pytest.mark.parametrize(
    ("line", "column"),
    [
        ("not json", None),
        ("[1, 2, 3]", None),
        ('{"N": 1e8, "D": 2e9}', "loss"),
        ('{"N": 1e8, "D": 2e9, "loss": NaN}', "loss"),
        ('{"N": 1e8, "D": 2e9, "loss": true}', "loss"),
        ('{"N": 1e8, "D": 2e9, "loss": [3]}', "loss"),
        ('{"N": %s, "D": 2e9, "loss": 3}' % ("9" * 400), "N"),
        ('{"N": %s, "D": 2e9, "loss": 3}' % ("9" * 5000), None),
        ("[" * 100_000, None),
        ('{"run": "a\\u0000b", "N": 1, "D": 1, "loss": 1}', "run"),
        ('{"run": "\\ud800", "N": 1, "D": 1, "loss": 1}', "run"),
    ],
)
def test_a_line_of_json_is_refused_with_its_number(line: str, column: str | None) -> None:
    good = json.dumps({"run": "r", "N": 1e8, "D": 2e9, "loss": 3.1})
    error = refused(f"{good}\n{line}\n", format="jsonl")
    assert error.row == 2 and error.column == column


def test_a_line_of_two_gigabytes_is_refused_after_its_first_mebibyte() -> None:
    """The stream is endless: a reader that wanted the whole line would never come back."""

    class Endless(io.RawIOBase):
        read_bytes = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            self.read_bytes += len(buffer)
            assert self.read_bytes < 4 << 20, "read on past the bound"
            buffer[:] = b"7" * len(buffer)
            return len(buffer)

    error = refusal_of(io.BufferedReader(Endless()))
    assert error.kind == "too_large" and error.row == 1


def refusal_of(stream: Any) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        read(stream, format="jsonl")
    return caught.value


def test_rows_of_a_body_are_counted_from_one() -> None:
    with pytest.raises(ServiceError) as caught:
        read_rows([{"N": 1.0, "D": 1.0, "loss": 2.0}, {"N": 1.0, "D": 1.0, "loss": None}])
    assert caught.value.row == 2 and caught.value.column == "loss"


def test_a_convention_that_is_not_known_is_refused() -> None:
    error = refused(GOOD, loss_unit="bans/token")
    assert error.column == "loss_unit" and "nats/token" in error.hint


def test_a_mapped_column_that_is_not_there_is_refused() -> None:
    error = refused(GOOD, columns={"loss": "perplexity"})
    assert error.value == "perplexity" and "'loss'" in error.hint


@pytest.mark.parametrize("begin", [b"PAR1\x15\x04", b"PK\x03\x04\x14\x00"])
def test_a_file_that_is_no_text_is_called_by_its_name(begin: bytes) -> None:
    error = refused(begin + bytes(100))
    assert "Parquet" in error.message or "spreadsheet" in error.message
    assert "CSV" in error.hint


def test_half_a_gzip_file_is_refused() -> None:
    packed = gzip.compress(GOOD.encode() + b"1e8,2e9,3.25\n" * 1000)
    for half in (packed[:40], packed[:-6], packed[:30] + b"\xff" * 20 + packed[50:]):
        assert "gzip" in refused(half).message


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_UNPACKED_BYTES", 10_000)
    packed = gzip.compress(GOOD.encode() + b"1e8,2e9,3.25\n" * 100_000)
    assert len(packed) < 10_000
    assert refused(packed).kind == "too_large"


def test_a_member_that_is_named_twice_is_refused() -> None:
    error = refused('{"N": 1e8, "D": 2e9, "loss": 3, "loss": 9}', format="jsonl")
    assert "'loss'" in error.message and error.row == 1
