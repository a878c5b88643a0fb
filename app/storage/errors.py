"""What can go wrong in storage, apart from the database itself being away."""


class StorageError(Exception):
    """Base of the errors that storage raises on purpose; the transaction is still usable."""


class NotFound(StorageError):
    """No such row. `kind` and `key` say what was looked for."""

    def __init__(self, kind: str, key: object) -> None:
        super().__init__(f"there is no {kind} {key!r}")
        self.kind = kind
        self.key = key


class Conflict(StorageError):
    """The row is there already, or is no longer in the state that the change needs."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
