"""The Kubernetes manifests: valid, and in step with the Dockerfile, the settings and the CLI."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings
from workers.__main__ import parse
from workers.lifecycle import Policy

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
TOOL = "kustomize.config.k8s.io"  # read by kubectl, never stored: no schema of the API's
OBJECTS = {
    f"{document['kind']}/{document['metadata']['name']}": document
    for path in FILES
    for document in yaml.safe_load_all(path.read_text())
    if not document["apiVersion"].startswith(TOOL)
}
PODS = {
    name: one["spec"]["template"]["spec"]
    for name, one in OBJECTS.items()
    if "template" in one["spec"]
}


def container(name: str) -> dict[str, Any]:
    (only,) = PODS[name]["containers"]
    return only


@pytest.mark.parametrize("name", OBJECTS)
def test_each_is_valid_by_kubernetes_own_schema(name: str) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    validate.validate(OBJECTS[name], validate.latest_version(), strict=True)


def test_a_mistake_would_be_seen() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    broken = json.loads(json.dumps(OBJECTS["Deployment/scalewright-api"]))
    broken["spec"]["template"]["spec"]["containers"][0]["arguments"] = ["serve"]
    with pytest.raises(validate.ValidationError):
        validate.validate(broken, validate.latest_version(), strict=True)


def test_all_of_them_are_applied_together() -> None:
    listed = yaml.safe_load((ROOT / "deploy/kubernetes/kustomization.yaml").read_text())
    there = {path.name for path in FILES} - {"kustomization.yaml"}
    assert set(listed["resources"]) == there
    assert {one["name"] for one in listed["images"]} == {one["image"] for one in containers()}


def containers() -> list[dict[str, Any]]:
    return [container(name) for name in PODS]


def test_images_and_commands_are_those_of_the_dockerfile() -> None:
    stages = re.split(r"(?m)^FROM ", (ROOT / "Dockerfile").read_text())[1:]
    entry = {}
    for stage in stages:
        found = re.search(r"(?m)^ENTRYPOINT (.*)$", stage)
        if found:
            entry[f"scalewright-{stage.split()[2]}"] = json.loads(found[1])
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert {one["image"] for one in containers()} <= {one["image"] for one in composed.values()}
    for one in containers():
        assert "command" not in one, "the image's entry point is what runs"
        if entry[one["image"]] == ["python", "-m", "workers"]:
            assert parse(one["args"]).concurrency == 1
        else:
            from typer.testing import CliRunner

            from app.cli import app

            assert entry[one["image"]] == ["scalewright"]
            assert CliRunner().invoke(app, [*one["args"], "--help"]).exit_code == 0


def test_secrets_are_referred_to_and_settings_exist() -> None:
    known = {f"SCALEWRIGHT_{name.upper()}" for name in Settings.model_fields} | {"DATABASE_URL"}
    for one in containers():
        environment = {each["name"]: each for each in one["env"]}
        assert environment.keys() <= known
        for name in environment.keys() & {"DATABASE_URL", "SCALEWRIGHT_ADMIN_KEY"}:
            assert environment[name]["valueFrom"]["secretKeyRef"]["name"] == "scalewright"
        assert "DATABASE_URL" in environment
    assert "Secret" not in {one["kind"] for one in OBJECTS.values()}


def test_they_run_as_the_image_s_user_and_have_time_to_end() -> None:
    uid = re.search(r"(?m)^USER (\d+)$", (ROOT / "Dockerfile").read_text())
    assert uid is not None
    for pod in PODS.values():
        assert pod["securityContext"]["runAsUser"] == int(uid[1])
        assert pod["securityContext"]["runAsNonRoot"] is True
    policy = Policy()
    needed = policy.stop_grace_seconds + policy.release_seconds
    assert PODS["Deployment/scalewright-workers"]["terminationGracePeriodSeconds"] > needed
    port = Settings.model_fields["port"].default
    assert container("Deployment/scalewright-api")["ports"][0]["containerPort"] == port


def test_selectors_find_their_pods() -> None:
    for name, one in OBJECTS.items():
        if one["kind"] == "Deployment":
            labels = one["spec"]["template"]["metadata"]["labels"]
            assert one["spec"]["selector"]["matchLabels"] == labels, name
    service = OBJECTS["Service/scalewright-api"]["spec"]["selector"]
    api = OBJECTS["Deployment/scalewright-api"]["spec"]["template"]["metadata"]["labels"]
    assert service == api
