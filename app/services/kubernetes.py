"""The Kubernetes manifests, with a cluster's own images and sizes put in.

`app/kubernetes/*.yaml` is their only source: `kubectl apply -k deploy/kubernetes` reads the same
files. They are filled in as text, so that their comments stay; a text that is not found exactly
once is an error of ours, which the tests would see.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from app.services import worker_sizes
from app.services.errors import ServiceError

FILES = ("storage.yaml", "migrate.yaml", "api.yaml", "workers.yaml")
# As in https://pkg.go.dev/github.com/distribution/reference, a little narrower.
_IMAGE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._/-]*(:\d+/[a-z0-9._/-]+)?(:[\w.-]+)?(@sha256:[0-9a-f]+)?"
)
_QUANTITY = re.compile(r"[1-9]\d*[KMGT]i?")
_TOLERATION = """      tolerations:
        - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
"""


@dataclass(frozen=True)
class WorkerPods:
    """What is put into the manifests; ServiceError says what is accepted.

    gpus            of each worker's pod; gpus_per_run and runs_per_gpu as the worker has them
    cpus            cores that each asks for; without GPUs it trains as many runs at once
    mem             memory that each asks for and may have, such as 16Gi; None: as in the file
    """

    api_image: str = "scalewright-api"
    worker_image: str = "scalewright-worker"
    replicas: int = 4
    gpus: int = 1
    gpus_per_run: int = 1
    runs_per_gpu: int | None = None
    cpus: int = 2
    mem: str | None = None

    def __post_init__(self) -> None:
        worker_sizes.check(
            self.gpus,
            self.gpus_per_run,
            self.runs_per_gpu,
            ("--replicas", self.replicas, 0, 10_000),
            ("--cpus", self.cpus, 1, worker_sizes.MOST_CPUS),
        )
        image = "an image's name, such as registry.example/scalewright-worker:0.1.0"
        for name, value, form, words in (
            ("--api-image", self.api_image, _IMAGE, image),
            ("--worker-image", self.worker_image, _IMAGE, image),
            ("--mem", self.mem, _QUANTITY, "a whole number and Ki, Mi, Gi or Ti, such as 16Gi"),
        ):
            if value is not None and not form.fullmatch(value):
                raise ServiceError("invalid", f"{name} is {value!r}.", f"Accepted is: {words}.")

    @property
    def args(self) -> list[str]:
        """Of the worker's image, whose entry point is `python -m workers`."""
        if self.gpus_per_run > 1:
            return ["--gpus-per-run", str(self.gpus_per_run)]
        if self.runs_per_gpu is not None:
            return ["--runs-per-gpu", str(self.runs_per_gpu)]
        return ["--concurrency", str(self.gpus or self.cpus)]


def manifests(pods: WorkerPods) -> str:
    """All of them, one YAML document after the other. There is no secret in them."""
    limits = f"memory: {pods.mem or '16Gi'}"
    if pods.gpus:
        limits += f", nvidia.com/gpu: {pods.gpus}"
    api_image = ("image: scalewright-api\n", f"image: {json.dumps(pods.api_image)}\n")
    changes = {
        "storage.yaml": [],
        "migrate.yaml": [api_image],
        "api.yaml": [api_image],
        "workers.yaml": [
            ("image: scalewright-worker\n", f"image: {json.dumps(pods.worker_image)}\n"),
            ("replicas: 4\n", f"replicas: {pods.replicas}\n"),
            ('args: [--concurrency, "1"]\n', f"args: {json.dumps(pods.args)}\n"),
            (
                'requests: {cpu: "2", memory: 8Gi}\n',
                f'requests: {{cpu: "{pods.cpus}", memory: {pods.mem or "8Gi"}}}\n',
            ),
            ("limits: {memory: 16Gi, nvidia.com/gpu: 1}\n", f"limits: {{{limits}}}\n"),
            (_TOLERATION, _TOLERATION if pods.gpus else ""),
        ],
    }
    folder = resources.files("app") / "kubernetes"
    return "---\n".join(_with(folder.joinpath(name).read_text(), changes[name]) for name in FILES)


def _with(text: str, changes: list[tuple[str, str]]) -> str:
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} is not there once"
        text = text.replace(old, new)
    return text


def apply(text: str, environment: Mapping[str, str]) -> str:
    """Hand them to the user's kubectl, in its context; what it said. Raises ServiceError."""
    program = shutil.which("kubectl", path=environment.get("PATH"))
    if program is None:
        raise ServiceError(
            "unavailable",
            "There is no kubectl here.",
            "Add --dry-run, and apply what is printed where there is one.",
        )
    done = subprocess.run(
        [program, "apply", "-f", "-"],
        env=dict(environment),
        input=text,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        raise ServiceError("invalid", f"kubectl refused the manifests: {done.stderr.strip()}")
    return done.stdout
