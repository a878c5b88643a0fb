"""What the schemas share."""

from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Item = TypeVar("Item")

MAX_NAME = 300


def _storable(text: str) -> str:
    if any(mark < " " or mark == "\x7f" or "\ud800" <= mark <= "\udfff" for mark in text):
        raise ValueError("control characters cannot be stored in a name")
    if text != text.strip():
        raise ValueError("a name does not begin or end with a space")
    return text


Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_storable)]
ProjectRef = Annotated[
    str | int, Field(description="A project by its name, or by its id.", examples=["demo"])
]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
RunId = Annotated[int, Field(ge=1, le=2**63 - 1)]
Level = Annotated[float, Field(ge=0.5, le=0.999, description="Of the interval.")]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Request(BaseModel):
    """A body: nothing unknown is passed over in silence, and all of it can be stored."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _can_be_stored(cls, body: Any) -> Any:
        """Postgres holds neither NUL nor half a surrogate pair, in text or in JSON."""
        _walk(body, 0)
        return body


def _text(text: str) -> None:
    if "\x00" in text or (
        not text.isascii() and any("\ud800" <= mark <= "\udfff" for mark in text)
    ):
        raise ValueError("a text holds a NUL character or half a surrogate pair")


def _walk(value: Any, depth: int) -> None:
    if depth > 20:
        raise ValueError("nested more than 20 levels deep")
    if isinstance(value, str):
        _text(value)
    elif isinstance(value, dict):
        for name, part in value.items():
            _text(name)
            if not isinstance(part, int | float):
                _walk(part, depth + 1)
    elif isinstance(value, list):
        # long columns of numbers are passed over quickly
        for part in value:
            if not isinstance(part, int | float):
                _walk(part, depth + 1)


class Answer(BaseModel):
    """What comes back. Unknown members are left out, so that storage may know more."""

    model_config = ConfigDict(extra="ignore", from_attributes=True)


class PageOf(Answer, Generic[Item]):
    items: list[Item]
    next_cursor: str | None = Field(
        default=None, description="Send it as `cursor` to get the next page; null: no more."
    )


class Problem(BaseModel):
    """An error (RFC 9457), with a `kind` for programs and a `hint` for people."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    kind: str
    hint: str
    row: int | None = None
    column: str | None = None
    value: Any = None


class Timed(Answer):
    created_at: datetime
