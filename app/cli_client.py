"""REST from the command line: the server's address, the key, and its refusals."""

import os
from collections.abc import Iterator
from typing import Any

import httpx2

from app.cli_output import Refused

PAGE = 200


class Client:
    """A thin client of `/v1`. Every answer that is not a success becomes `Refused`.

    url: where the server is; None takes SCALEWRIGHT_SERVER, else the host and port of the settings.
    The bearer key is SCALEWRIGHT_API_KEY, never an option: options show up in process lists.
    """

    def __init__(self, url: str | None = None) -> None:
        self.url = (url or os.environ.get("SCALEWRIGHT_SERVER") or _of_settings()).rstrip("/")
        key = os.environ.get("SCALEWRIGHT_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.Client(base_url=self.url, headers=headers, timeout=60)

    def get(self, path: str, **params: Any) -> Any:
        known = {name: value for name, value in params.items() if value is not None}
        return self._send("GET", path, params=known)

    def post(self, path: str, **options: Any) -> Any:
        return self._send("POST", path, **options)

    def every(self, path: str, **params: Any) -> Iterator[dict[str, Any]]:
        """All items of a list, page after page."""
        cursor = None
        while True:
            page = self.get(path, **params, limit=PAGE, cursor=cursor)
            yield from page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    def _send(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = self._http.request(method, path, **options)
        except ValueError as error:
            raise Refused(
                f"The request cannot be sent: {error}.", "Give finite numbers; NaN is none."
            ) from None
        except httpx2.TransportError as error:
            raise Refused(
                f"No scalewright server answers at {self.url} ({error}).",
                "Start one with `scalewright serve`, or say where it is: --server URL.",
            ) from None
        if response.is_success:
            return response.json() if response.content else None
        try:
            said = response.json()
        except ValueError:
            said = {}
        raise Refused(
            str(said.get("detail") or f"The server answered {response.status_code} to {path}."),
            str(said.get("hint", "")),
            **{
                name: said[name]
                for name in ("status", "kind", "row", "column", "value", "errors")
                if name in said
            },
        )


def _of_settings() -> str:
    from app.cli_operate import settings_or_refuse

    settings = settings_or_refuse()
    everywhere = settings.host in ("0.0.0.0", "::")
    host = "127.0.0.1" if everywhere else settings.host
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
