"""The Kubernetes manifests: valid, and in step with the Dockerfile, the settings and the CLI."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from app.cli import app
from app.cli_output import refusal
from app.services import kubernetes
from app.settings import Settings
from workers.__main__ import parse
from workers.lifecycle import Policy

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "app" / "kubernetes").glob("*.yaml"))
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
    listed = yaml.safe_load((ROOT / "app/kubernetes/kustomization.yaml").read_text())
    there = {path.name for path in FILES} - {"kustomization.yaml"}
    assert set(listed["resources"]) == there == set(kubernetes.FILES)
    path = ROOT / "deploy/kubernetes/kustomization.yaml"
    listed = yaml.safe_load(path.read_text())
    assert [(path.parent / each).resolve() for each in listed["resources"]] == [FILES[0].parent]
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
        assert pod["automountServiceAccountToken"] is False
    policy = Policy()
    needed = policy.stop_grace_seconds + policy.release_seconds
    assert PODS["Deployment/scalewright-workers"]["terminationGracePeriodSeconds"] > needed
    port = Settings.model_fields["port"].default
    assert container("Deployment/scalewright-api")["ports"][0]["containerPort"] == port


def test_a_namespace_with_the_restricted_standard_takes_them() -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    for pod in PODS.values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & pod.keys()
        for one in pod["containers"]:
            wanted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            assert one["securityContext"] == wanted


def test_a_worker_holds_one_gpu_and_the_api_says_how_it_is() -> None:
    limits = container("Deployment/scalewright-workers")["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == 1
    api = container("Deployment/scalewright-api")
    assert api["livenessProbe"]["tcpSocket"]["port"] == api["ports"][0]["name"]
    health = api["readinessProbe"]["httpGet"]
    assert health["path"] in (ROOT / "Dockerfile").read_text()  # which asks the same
    assert health["port"] == api["ports"][0]["name"]


def test_selectors_find_their_pods() -> None:
    for name, one in OBJECTS.items():
        if one["kind"] == "Deployment":
            labels = one["spec"]["template"]["metadata"]["labels"]
            assert one["spec"]["selector"]["matchLabels"] == labels, name
    service = OBJECTS["Service/scalewright-api"]["spec"]["selector"]
    api = OBJECTS["Deployment/scalewright-api"]["spec"]["template"]["metadata"]["labels"]
    assert service == api


def printed(*arguments: str) -> dict[str, Any]:
    """What the command prints, each held against Kubernetes' own schema."""
    validate = pytest.importorskip("kubernetes_validate")
    done = CliRunner().invoke(app, ["cluster", "kubernetes", "--dry-run", *arguments])
    assert done.exit_code == 0, done.output
    objects = {}
    for one in yaml.safe_load_all(done.stdout):
        validate.validate(one, validate.latest_version(), strict=True)
        objects[f"{one['kind']}/{one['metadata']['name']}"] = one
    return objects


def test_the_command_prints_these_very_manifests() -> None:
    assert printed() == OBJECTS


def test_images_replicas_and_gpus_are_filled_in() -> None:
    images = ("--api-image", "my.registry:5000/api:1.2", "--worker-image", "my.registry/worker:1.2")
    sizes = ("--replicas", "9", "--gpus", "4", "--gpus-per-run", "2", "--cpus", "16")
    given = printed(*images, *sizes, "--mem", "64Gi")
    for name, image in (
        ("Deployment/scalewright-api", images[1]),
        ("Job/scalewright-migrate", images[1]),
        ("Deployment/scalewright-workers", images[3]),
    ):
        (one,) = given[name]["spec"]["template"]["spec"]["containers"]
        assert one["image"] == image
    workers = given["Deployment/scalewright-workers"]["spec"]
    assert workers["replicas"] == 9
    (one,) = workers["template"]["spec"]["containers"]
    assert parse(one["args"]).gpus_per_run == 2
    assert one["resources"] == {
        "requests": {"cpu": "16", "memory": "64Gi"},
        "limits": {"memory": "64Gi", "nvidia.com/gpu": 4},
    }


def test_workers_without_gpus_ask_for_none() -> None:
    pod = printed("--gpus", "0", "--cpus", "6")["Deployment/scalewright-workers"]
    assert "nvidia" not in json.dumps(pod)
    (one,) = pod["spec"]["template"]["spec"]["containers"]
    assert parse(one["args"]).concurrency == 6


@pytest.mark.parametrize(
    "wrong",
    [
        ["--replicas", "-1"],
        ["--gpus", "1", "--gpus-per-run", "2"],
        ["--gpus", "0", "--runs-per-gpu", "2"],
        ["--mem", "16 G"],
        ["--worker-image", "a: [b]"],
        ["--api-image", "x\n  evil: true"],
    ],
)
def test_what_would_be_another_manifest_is_refused(wrong: list[str]) -> None:
    done = CliRunner().invoke(app, ["cluster", "kubernetes", "--dry-run", *wrong])
    said = refusal(done.exception)
    assert said is not None and wrong[-2] in said["message"]
    assert "\\d" not in str(said) and "[A-Z" not in str(said), "words, no pattern"


def test_the_user_s_kubectl_applies_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in for kubectl writes down what it was given."""
    program = tmp_path / "kubectl"
    monkeypatch.setenv("PATH", str(tmp_path))  # a real one must never be found
    said = refusal(CliRunner().invoke(app, ["cluster", "kubernetes"]).exception)
    assert said is not None and "no kubectl" in said["message"]
    program.write_text('#!/bin/sh\necho "$@"\n/bin/cat > "$0.given"\n')
    program.chmod(0o755)
    done = CliRunner().invoke(app, ["cluster", "kubernetes", "--gpus", "0"])
    assert (done.exit_code, done.stdout) == (0, "apply -f -\n")
    assert Path(f"{program}.given").read_text() == kubernetes.manifests(
        kubernetes.WorkerPods(gpus=0)
    )
