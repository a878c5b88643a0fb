"""Made-up requests from the OpenAPI document: whatever is sent, the answer is never a 500.

The pytest plugin of schemathesis 4.32 does not work with pytest 9.2, so its strategies are drawn
from by hypothesis directly. Streams are left out: one that exists does not end by itself.
"""

from typing import Any

import hypothesis
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase

BOUNDED = hypothesis.settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def test_no_request_is_answered_with_500(client: TestClient, ladder: dict[str, Any]) -> None:
    document = client.get("/openapi.json").json()
    operations = schemathesis.openapi.from_dict(document).get_all_operations()
    failures: list[str] = []
    asked = 0

    def check(case: Any) -> None:
        nonlocal asked
        asked += 1
        arguments = case.as_transport_kwargs()
        headers = {k: v for k, v in dict(arguments.get("headers") or {}).items() if v is not None}
        sent = {
            name: arguments[name]
            for name in ("params", "json", "data", "files")
            if arguments.get(name) is not None
        }
        if "files" in sent:
            # a form is text; numbers are written out
            sent["files"] = [
                (name, (part[0], str(part[1])) if isinstance(part[1], int | float) else part)
                for name, part in sent["files"]
            ]
        if isinstance(sent.get("data"), bytes | str):
            sent["content"] = sent.pop("data")
        answer = client.request(case.method, case.formatted_path, headers=headers, **sent)
        if answer.status_code >= 500:
            failures.append(f"{case.method} {case.formatted_path} {sent}: {answer.text}"[:1000])
        elif answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json"

    for found in operations:
        operation = found.ok()
        if not operation.path.endswith("/events"):
            BOUNDED(hypothesis.given(case=operation.as_strategy())(check))()
    assert not failures, "\n".join(failures)
    assert asked > 200
