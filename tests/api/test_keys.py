"""Keys: hashed, scoped, revocable; without one nothing is said."""

import re
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import Engine, text

from app.api import auth
from app.settings import Settings
from tests.api.conftest import client_of

ADMIN_KEY = "an-admin-key-of-forty-two-characters-or-so"


@pytest.fixture(scope="module")
def keyed(settings: Settings) -> Iterator[TestClient]:
    guarded = settings.model_copy(
        update={"auth": "keys", "admin_key": SecretStr(ADMIN_KEY), "host": "0.0.0.0"}
    )
    with client_of(guarded) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def make_key(client: TestClient, name: str, *scopes: str) -> str:
    made = client.post("/v1/keys", json={"name": name, "scopes": scopes}, headers=bearer(ADMIN_KEY))
    assert made.status_code == 201, made.text
    return str(made.json()["key"])


def test_nobody_reads_without_a_key(keyed: TestClient) -> None:
    for path in ("/v1/projects", "/v1/laws", "/metrics", "/v1/runs/1/events", "/"):
        answer = keyed.get(path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
        assert keyed.get(path, headers=bearer("sw_wrong")).status_code == 401
    assert keyed.get("/v1/health").status_code == 200
    page = keyed.get("/", headers={"accept": "text/html"}, follow_redirects=False)
    assert (page.status_code, page.headers["location"]) == (303, "/sign-in")
    assert keyed.get("/sign-in").status_code == 200
    wrong = {"accept": "text/html", "cookie": f"{auth.COOKIE}=sw_wrong"}
    refused = keyed.get("/", headers=wrong, follow_redirects=False)
    assert (refused.status_code, refused.headers["location"]) == (303, "/sign-in?refused=1")


def test_a_scope_includes_the_lesser_ones_and_no_more(keyed: TestClient) -> None:
    reader = bearer(make_key(keyed, "reader", "read"))
    writer = bearer(make_key(keyed, "writer", "submit"))
    body = {"name": "scoped"}
    assert keyed.get("/v1/projects", headers=reader).status_code == 200
    refused = keyed.post("/v1/projects", json=body, headers=reader)
    assert refused.status_code == 403 and "submit" in refused.json()["hint"]
    assert keyed.post("/v1/projects", json=body, headers=writer).status_code == 201
    assert keyed.get("/v1/projects", headers=writer).status_code == 200
    assert keyed.get("/v1/keys", headers=writer).status_code == 403
    assert keyed.delete("/v1/projects/scoped", headers=writer).status_code == 403
    assert keyed.delete("/v1/projects/scoped", headers=bearer(ADMIN_KEY)).status_code == 204


def test_a_key_is_kept_as_a_digest_and_can_be_revoked(
    keyed: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "REMEMBER_SECONDS", 0.0)
    key = make_key(keyed, "short-lived", "read")
    with engine.begin() as connection:
        stored = str(connection.execute(text("select * from api_keys")).all())
    assert key not in stored and key[:11] in stored
    assert keyed.get("/v1/projects", headers=bearer(key)).status_code == 200
    listed = keyed.get("/v1/keys", headers=bearer(ADMIN_KEY)).json()["items"]
    key_id = next(item["id"] for item in listed if item["name"] == "short-lived")
    assert key not in str(listed)
    assert keyed.delete(f"/v1/keys/{key_id}", headers=bearer(ADMIN_KEY)).status_code == 204
    assert keyed.get("/v1/projects", headers=bearer(key)).status_code == 401


def test_a_page_may_send_the_key_as_a_cookie(keyed: TestClient) -> None:
    key = make_key(keyed, "browser", "read")
    answer = keyed.get("/v1/projects", headers={"cookie": f"{auth.COOKIE}={key}"})
    assert answer.status_code == 200


def test_an_idempotency_key_belongs_to_its_caller(keyed: TestClient) -> None:
    one, two = make_key(keyed, "one", "submit"), make_key(keyed, "two", "submit")
    same = {"Idempotency-Key": "shared"}
    first = keyed.post("/v1/projects", json={"name": "mine"}, headers={**bearer(one), **same})
    second = keyed.post("/v1/projects", json={"name": "yours"}, headers={**bearer(two), **same})
    assert first.status_code == second.status_code == 201
    unknown = keyed.post("/v1/projects", json={"name": "mine"}, headers=same)
    assert unknown.status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),  # a program
        ({"origin": "http://127.0.0.1"}, 201),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),  # the same site, and yet not this server
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "same-origin", "origin": "https://named.by.a.proxy"}, 201),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
    ],
)
def test_a_page_elsewhere_cannot_act_with_a_visitors_cookie(
    keyed: TestClient, headers: dict[str, str], status: int
) -> None:
    key = make_key(keyed, "visitor", "submit")
    cookie = {"cookie": f"{auth.COOKIE}={key}"}
    body = {"name": f"of {sorted(headers.items())}"}
    sent = keyed.post("/v1/projects", json=body, headers={**cookie, **headers})
    assert sent.status_code == status, sent.text
    # nor sign this browser in with a key of its own
    signed = keyed.post("/sign-in", data={"key": key}, headers=headers, follow_redirects=False)
    assert signed.status_code == (303 if status == 201 else 403)
    keyed.cookies.clear()
    # a key in the header was put there on purpose
    again = keyed.post("/v1/projects", json={**body, "name": f"{body['name']} again"},
                       headers={**bearer(key), **headers})  # fmt: skip
    assert again.status_code == 201
    assert keyed.get("/v1/projects", headers={**cookie, **headers}).status_code == 200


def test_sign_in_leads_back_to_the_page_that_was_asked_for(keyed: TestClient) -> None:
    browser = {"accept": "text/html"}
    asked = keyed.get("/runs?project=a&status=failed", headers=browser, follow_redirects=False)
    assert asked.status_code == 303
    form = keyed.get(asked.headers["location"], headers=browser).text
    then = re.search(r'name="then" value="([^"]*)"', form)
    assert then is not None and then[1] == "/runs?project=a&amp;status=failed"
    key = make_key(keyed, "visitor of a deep link", "read")
    sent = {"key": key, "then": "/runs?project=a&status=failed"}
    signed = keyed.post("/sign-in", data=sent, headers=browser, follow_redirects=False)
    assert signed.headers["location"] == sent["then"]
    # a page elsewhere may link here with the cookie, and no more: see the tests of origins
    assert "SameSite=lax" in signed.headers["set-cookie"]
    keyed.cookies.clear()


@pytest.mark.parametrize(
    "then", ["https://evil.example/", "//evil.example", "/\\evil.example", "/\t/evil.example", ""]
)
def test_sign_in_leads_to_no_other_site(keyed: TestClient, then: str) -> None:
    signed = keyed.post("/sign-in", data={"key": "x", "then": then}, follow_redirects=False)
    assert (signed.status_code, signed.headers["location"]) == (303, "/")
    keyed.cookies.clear()


def test_a_key_that_no_cookie_can_hold_is_refused_in_words(keyed: TestClient) -> None:
    for key in ("ключ", 'a"b; c', "", "  "):
        keyed.cookies.clear()
        signed = keyed.post("/sign-in", data={"key": key}, headers={"accept": "text/html"})
        assert signed.status_code == 200 and "not known, or was revoked" in signed.text, key
    keyed.cookies.clear()


def test_to_train_a_run_again_takes_a_key_that_may(keyed: TestClient) -> None:
    browser = {"accept": "text/html", "sec-fetch-site": "same-origin"}
    nobody = keyed.post("/runs/1/retry", headers=browser, follow_redirects=False)
    assert (nobody.status_code, nobody.headers["location"]) == (303, "/sign-in")
    for scope, status in (("read", 403), ("submit", 404)):
        cookie = {"cookie": f"{auth.COOKIE}={make_key(keyed, scope, scope)}"}
        pressed = keyed.post("/runs/1/retry", headers={**browser, **cookie})
        assert pressed.status_code == status and "<!doctype html>" in pressed.text
