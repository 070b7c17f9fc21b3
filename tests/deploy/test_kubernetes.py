"""The Kubernetes manifests: valid, and true to what the code has and needs."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from redis import Redis

from service.api.app import create_app
from service.api.server import GRACE_SECONDS
from service.api.uploads import MULTIPART_OVERHEAD
from service.jobs.machine import Jobs
from service.jobs.names import PLAN, new_job_id
from service.jobs.options import Options
from service.jobs.queue import Queue
from service.jobs.records import State
from service.settings import Settings
from service.store import check_url
from tests.receiver import SECRET

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
OLDEST = "1.30"
Manifest = dict[str, Any]

# What KEDA's definitions have, as far as it is used; kubernetes-validate knows none of it.
KEDA_FIELDS = {
    "ScaledObject": {
        *("scaleTargetRef", "pollingInterval", "cooldownPeriod", "minReplicaCount", "maxReplicaCount"),
        *("advanced", "triggers"),
    },
    "TriggerAuthentication": {"secretTargetRef"},
}


def load(path: Path) -> list[Manifest]:
    return list(yaml.safe_load_all(path.read_text()))


KUSTOMIZATIONS = sorted(FOLDER.rglob("kustomization.yaml"))
FILES = sorted(set(FOLDER.rglob("*.yaml")) - set(KUSTOMIZATIONS))
MANIFESTS = [manifest for path in FILES for manifest in load(path)]


def named(kind: str, name: str) -> Manifest:
    [found] = [m for m in MANIFESTS if m["kind"] == kind and m["metadata"]["name"] == name]
    return found


def workloads() -> list[Manifest]:
    return [m for m in MANIFESTS if m["kind"] in ("Deployment", "StatefulSet")]


def pod(workload: Manifest) -> Manifest:
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def container(name: str) -> Manifest:
    [found] = pod(named("Deployment", name))["containers"]
    return found


def label(manifest: Manifest) -> str:
    return f"{manifest['kind']}-{manifest['metadata'].get('name', '')}"


every_workload = pytest.mark.parametrize("workload", workloads(), ids=label)
OURS = ["dain-api", "dain-janitor", "dain-worker", "dain-webhooks"]
SECRETS = {"dain-redis": "redis://:secret@dain-redis:6379/0", "dain-webhooks": SECRET}


# -- valid -----------------------------------------------------------------------------------------


def validate(manifest: Manifest) -> None:
    if manifest["apiVersion"].startswith("keda.sh/"):
        assert set(manifest["spec"]) <= KEDA_FIELDS[manifest["kind"]]
    else:
        for version in (OLDEST, kubernetes_validate.latest_version()):
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=label)
def test_a_manifest_fits_its_schema(manifest: Manifest) -> None:
    validate(manifest)


def test_the_validator_refuses_what_kubernetes_would() -> None:
    manifest = named("Deployment", "dain-api") | {"spec": {"replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(manifest)


def test_every_file_is_part_of_a_kustomization_and_the_other_way_round() -> None:
    listed = [
        (path.parent / name).resolve()
        for path in KUSTOMIZATIONS
        for kustomization in load(path)
        for name in kustomization.get("resources", [])
    ]
    assert sorted(path for path in listed if path.suffix == ".yaml") == FILES
    assert all(path.exists() for path in listed)


def rendered(folder: Path) -> list[Manifest]:
    if not (kubectl := shutil.which("kubectl")):
        pytest.skip("no kubectl on this machine to render with")
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def test_all_of_it_renders_to_valid_manifests() -> None:
    manifests = rendered(FOLDER)
    for manifest in manifests:
        validate(manifest)
        if manifest["kind"] not in ("Namespace", "PriorityClass"):
            assert manifest["metadata"]["namespace"] == "dain"
    chosen = [m for path in FILES if path.parent.name != "s3" for m in load(path)]
    assert {label(m) for m in manifests} == {label(m) for m in chosen}


def test_workers_on_the_cpu_ask_for_no_gpu(tmp_path: Path) -> None:
    for name in ("base", "components"):
        shutil.copytree(FOLDER / name, tmp_path / name)
    (tmp_path / "kustomization.yaml").write_text("resources: [base]\ncomponents: [components/cpu]\n")
    [worker] = [m for m in rendered(tmp_path) if label(m) == "Deployment-dain-worker"]
    validate(worker)
    [made] = pod(worker)["containers"]
    assert made["image"].startswith("dain-worker-cpu")
    assert {"name": "DAIN_DEVICE", "value": "cpu"} in made["env"]
    assert set(made["resources"]["limits"]) == {"memory"}


# -- true to the code ------------------------------------------------------------------------------


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Settings]:
    """The settings of a container as its process reads them."""

    def read(name: str) -> Settings:
        for variable in container(name)["env"]:
            if "valueFrom" in variable:
                variable = {**variable, "value": SECRETS[variable["valueFrom"]["secretKeyRef"]["name"]]}
            monkeypatch.setenv(variable["name"], variable["value"])
        for variable, value in named("ConfigMap", "dain-settings")["data"].items():
            monkeypatch.setenv(variable, value)
        return Settings()

    return read


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting(name: str) -> None:
    assert container(name)["envFrom"] == [{"configMapRef": {"name": "dain-settings"}}]
    variables = [*named("ConfigMap", "dain-settings")["data"], *(v["name"] for v in container(name)["env"])]
    assert set(variables) <= {f"DAIN_{field.upper()}" for field in Settings.model_fields}
    assert "DAIN_REDIS_URL" in variables


@pytest.mark.parametrize("name", OURS)
def test_a_container_runs_a_module(name: str) -> None:
    python, option, module = container(name)["args"]
    assert (python, option) == ("python", "-m")
    assert importlib.util.find_spec(module)


@pytest.mark.parametrize("name", ["dain-api", "dain-janitor", "dain-worker"])
def test_a_container_keeps_its_files_in_the_store(name: str, environment: Callable[[str], Settings]) -> None:
    mounts = {mount["mountPath"]: mount["name"] for mount in container(name)["volumeMounts"]}
    assert environment(name).store_url == "file:///var/lib/dain/store"
    assert mounts["/var/lib/dain/store"] == "store"
    volume = {"name": "store", "persistentVolumeClaim": {"claimName": "dain-store"}}
    assert volume in pod(named("Deployment", name))["volumes"]
    assert named("PersistentVolumeClaim", "dain-store")["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("name", ["dain-api", "dain-janitor", "dain-worker"])
def test_in_place_of_the_store_a_pod_gets_a_cache_where_files_lie_in_a_bucket(
    name: str, environment: Callable[[str], Settings]
) -> None:
    """The component `s3` patches these by their numbers."""
    [component] = load(FOLDER / "components" / "s3" / "kustomization.yaml")
    settings, claim, deployment = component["patches"]
    [url] = yaml.safe_load(settings["patch"])
    assert check_url(url["value"]) and url["path"].endswith("/DAIN_STORE_URL")
    assert yaml.safe_load(claim["patch"])["metadata"]["name"] == "dain-store"
    assert re.fullmatch(deployment["target"]["name"], name)
    volume, mount, _ = yaml.safe_load(deployment["patch"])
    assert volume["path"] == "/spec/template/spec/volumes/0" and volume["value"]["name"] == "store"
    assert pod(named("Deployment", name))["volumes"][0]["name"] == "store"
    assert mount["path"] == "/spec/template/spec/containers/0/volumeMounts/0/mountPath"
    assert container(name)["volumeMounts"][0]["name"] == "store"
    assert Path(mount["value"]) == environment(name).state_dir / "cache"


def test_requests_reach_the_port_that_the_api_listens_on(environment: Callable[[str], Settings]) -> None:
    settings = environment("dain-api")
    port, metrics = container("dain-api")["ports"]
    assert (settings.host, settings.port) == ("0.0.0.0", port["containerPort"])
    assert settings.metrics_port == metrics["containerPort"]
    served, _ = ports = named("Service", "dain-api")["spec"]["ports"]
    assert [each["targetPort"] for each in ports] == [port["name"], metrics["name"]]
    [path] = named("Ingress", "dain")["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"] == {"name": "dain-api", "port": {"name": served["name"]}}


def test_the_ingress_lets_through_what_the_api_takes(environment: Callable[[str], Settings]) -> None:
    size = named("Ingress", "dain")["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"]
    assert (
        int(size.removesuffix("m")) * 2**20 >= environment("dain-api").max_upload_bytes + MULTIPART_OVERHEAD
    )


def test_the_api_is_ready_without_workers_since_a_job_must_wake_them(
    environment: Callable[[str], Settings],
) -> None:
    routes = set(create_app(environment("dain-api")).openapi()["paths"])
    probes = [
        container("dain-api")[f"{kind}Probe"]["httpGet"] for kind in ("readiness", "liveness", "startup")
    ]
    assert {probe["path"] for probe in probes} <= routes - {"/readyz"}
    assert {probe["port"] for probe in probes} == {"http"}
    assert named("ScaledObject", "dain-worker")["spec"]["minReplicaCount"] == 0


def test_a_worker_starts_by_being_warm_and_is_not_ended_by_an_outage_of_redis() -> None:
    worker = container("dain-worker")
    python, script = worker["startupProbe"]["exec"]["command"]
    assert (python, script) == ("python", "/opt/dain/healthy.py")
    for dockerfile in ("Dockerfile", "worker.Dockerfile"):
        assert "docker/healthy.py" in (ROOT / "docker" / dockerfile).read_text()
    assert "livenessProbe" not in worker


def test_there_is_time_to_end_in_good_order() -> None:
    api = pod(named("Deployment", "dain-api"))
    waiting = api["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert api["terminationGracePeriodSeconds"] > waiting + GRACE_SECONDS
    assert pod(named("Deployment", "dain-worker"))["terminationGracePeriodSeconds"] >= 60


# -- locked down -----------------------------------------------------------------------------------


@every_workload
def test_a_pod_has_no_rights_that_it_does_not_need(workload: Manifest) -> None:
    spec = pod(workload)
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False  # or a Service called `dain` would set DAIN_PORT to a URL
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for made in spec["containers"]:
        assert made["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@every_workload
def test_a_pod_says_what_it_needs_and_how_much_it_matters(workload: Manifest) -> None:
    assert named("PriorityClass", pod(workload)["priorityClassName"])
    for made in pod(workload)["containers"]:
        assert set(made["resources"]["requests"]) == {"cpu", "memory"}
        assert "memory" in made["resources"]["limits"]


def selectors() -> Iterator[tuple[str, dict[str, str]]]:
    for manifest in MANIFESTS:
        spec = manifest.get("spec", {})
        for selector in (spec.get("selector"), spec.get("podSelector")):
            if selector:
                yield label(manifest), selector.get("matchLabels", selector)


@pytest.mark.parametrize(("name", "selector"), list(selectors()))
def test_a_selector_selects_pods_that_there_are(name: str, selector: dict[str, str]) -> None:
    pods = [workload["spec"]["template"]["metadata"]["labels"] for workload in workloads()]
    assert any(selector.items() <= labels.items() for labels in pods), name


def test_api_and_sender_sign_with_one_secret_and_alone_call_out() -> None:
    for name in OURS:
        signs = name in ("dain-api", "dain-webhooks")
        labels = named("Deployment", name)["spec"]["template"]["metadata"]["labels"]
        assert ("DAIN_WEBHOOK_SECRET" in {variable["name"] for variable in container(name)["env"]}) == signs
        assert ("dain/may-call-out" in labels) == signs


def test_the_secret_has_one_set_of_keys() -> None:
    text = (FOLDER / "README.md").read_text()
    wanted = {ref["key"] for ref in named("TriggerAuthentication", "dain-redis")["spec"]["secretTargetRef"]}
    for workload in workloads():
        for variable in pod(workload)["containers"][0].get("env", []):
            reference = variable.get("valueFrom", {}).get("secretKeyRef", {})
            if reference.get("name") == "dain-redis":
                wanted.add(reference["key"])
    assert wanted == {"url", "address", "password"}
    assert all(f"--from-literal={key}=" in text for key in wanted)


# -- scaling ---------------------------------------------------------------------------------------


def evaluate(formula: str, values: dict[str, float]) -> float:
    """KEDA's formula `a ? b : c`, nested to the right, in Python's words."""
    condition, question, rest = formula.partition("?")
    if not question:
        return float(eval(condition, {}, dict(values)))
    met, _, otherwise = rest.partition(":")
    return evaluate(met if eval(condition, {}, dict(values)) else otherwise, values)


class Scaler:
    """What KEDA reads and makes of it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._spec = named("ScaledObject", "dain-worker")["spec"]

    def _length(self, key: str) -> float:
        length = self._redis.zcard if self._redis.type(key) == b"zset" else self._redis.llen
        return float(length(key))

    def tasks(self) -> float:
        values = {
            trigger["name"]: self._length(trigger["metadata"]["listName"])
            for trigger in self._spec["triggers"]
        }
        return evaluate(self._spec["advanced"]["scalingModifiers"]["formula"], values)


@pytest.fixture
def scaler(redis: Redis) -> Scaler:
    return Scaler(redis)


@pytest.fixture
def queue(redis: Redis) -> Queue:
    return Queue(redis)


@pytest.fixture
def jobs(redis: Redis, settings: Settings) -> Jobs:
    return Jobs.from_settings(redis, settings)


@pytest.fixture
def job_id(jobs: Jobs, queue: Queue) -> str:
    """A job that waits."""
    job_id = new_job_id()
    jobs.create(job_id, source=f"uploads/{job_id}", filename="clip.mp4", options=Options(), input={})
    queue.enqueue(job_id, PLAN)
    return job_id


def start(queue: Queue, redis: Redis) -> None:
    """What RQ does when a worker takes a task: it leaves the queue, and counts as work in progress."""
    delivery = redis.lpop(queue.rq.key)
    redis.zadd(queue.rq.started_job_registry.key, {f"{delivery!r}:execution": 2e9})


def test_no_work_needs_no_worker(scaler: Scaler) -> None:
    assert scaler.tasks() == 0


def test_a_waiting_job_wakes_a_worker(scaler: Scaler, job_id: str) -> None:
    assert scaler.tasks() == 1


def test_waiting_and_running_tasks_count(
    scaler: Scaler, jobs: Jobs, queue: Queue, redis: Redis, job_id: str
) -> None:
    start(queue, redis)
    claim = jobs.claim(job_id, PLAN, "worker")
    assert scaler.tasks() == 1
    for task in jobs.complete(claim, job={"segments_total": 3}) or []:
        queue.enqueue(job_id, task)
    assert scaler.tasks() == 4  # RQ strikes the plan off a moment later
    start(queue, redis)
    assert scaler.tasks() == 4


def test_a_live_job_keeps_a_worker_while_its_task_is_in_no_queue(
    scaler: Scaler, jobs: Jobs, queue: Queue, redis: Redis, job_id: str
) -> None:
    redis.delete(queue.rq.key)
    assert scaler.tasks() == 1


def test_what_a_dead_worker_left_in_rq_keeps_no_worker_up(
    scaler: Scaler, jobs: Jobs, queue: Queue, redis: Redis, job_id: str
) -> None:
    start(queue, redis)
    jobs.finish(job_id, State.CANCELLED)
    assert redis.zcard(queue.rq.started_job_registry.key) == 1
    assert scaler.tasks() == 0
