"""The Kubernetes manifests say what is true: of each other, of the image, and of the program."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from registry import config
from registry.server.index.migrate import migrate_postgres
from tests.conftest import MakeServer
from tests.deploy.conftest import DEPLOY, verb_is_known
from tests.support.postgres import Postgres

DIRECTORY = DEPLOY / "kubernetes"
DOCKERFILE = (DEPLOY.parent / "Dockerfile").read_text()
# Kubernetes tells each pod of a Service named `hythe` by variables that begin with this.
SERVICE_PREFIX = "HYTHE_"


def documents() -> dict[tuple[str, str], Any]:
    """Every object that kustomize would apply, by kind and name."""
    found = {}
    for name in kustomization()["resources"]:
        for document in yaml.safe_load_all((DIRECTORY / name).read_text()):
            found[document["kind"], document["metadata"]["name"]] = document
    return found


def kustomization() -> Any:
    return yaml.safe_load((DIRECTORY / "kustomization.yaml").read_text())


def settings() -> dict[str, str]:
    lines = (DIRECTORY / "settings.env").read_text().split()
    return dict(line.split("=", 1) for line in lines)


def secret() -> set[str]:
    """The keys of the Secret that the reader is told to make."""
    return set(re.findall(r"--from-literal=(\w+)=", (DIRECTORY / "kustomization.yaml").read_text()))


PODS = [("Deployment", "hythe"), ("Job", "hythe-migrate")]


@pytest.fixture(params=PODS, ids=["server", "migration"])
def pod(request: pytest.FixtureRequest) -> Any:
    """The specification of the pods of one workload."""
    return documents()[request.param]["spec"]["template"]["spec"]


def container(pod: Any) -> Any:
    [only] = pod["containers"]
    return only


def test_every_file_is_applied_or_a_source_of_what_is() -> None:
    named = {*kustomization()["resources"], "kustomization.yaml"}
    for generator in kustomization()["configMapGenerator"]:
        named.update(generator["envs"])
    assert named == {path.name for path in DIRECTORY.iterdir()}


def test_the_image_is_the_one_that_kustomize_renames(pod: Any) -> None:
    assert container(pod)["image"] in {image["name"] for image in kustomization()["images"]}


def test_the_arguments_are_verbs_of_the_program(pod: Any) -> None:
    assert 'ENTRYPOINT ["hythe"]' in DOCKERFILE
    assert verb_is_known(container(pod)["args"])


def test_settings_and_secrets_come_from_objects_that_there_are(pod: Any) -> None:
    generated = {generator["name"] for generator in kustomization()["configMapGenerator"]}
    for source in container(pod)["envFrom"]:
        [(kind, reference)] = source.items()
        assert reference["name"] in (generated if kind == "configMapRef" else {"hythe"})


def test_the_variables_are_settings_that_a_server_takes_together() -> None:
    known = {name for name, _ in config.variables()}
    assert settings().keys() | secret() <= known
    given = {**settings(), **dict.fromkeys(secret(), "x"), "HYTHE_INDEX_URL": "postgresql://a@b/c"}
    made = config.load(None, given)
    assert made.storage.kind == "s3"
    assert made.index.is_postgres


def test_variables_of_services_do_not_come_among_the_settings(pod: Any) -> None:
    assert any(f"{name.upper()}_" == SERVICE_PREFIX for kind, name in documents() if kind == "Service")
    assert pod["enableServiceLinks"] is False


def test_pods_run_as_the_user_of_the_image_and_as_nobody_else(pod: Any) -> None:
    [user] = re.findall(r"^USER (\d+):\d+$", DOCKERFILE, re.MULTILINE)
    assert pod["securityContext"]["runAsUser"] == int(user)
    assert pod["securityContext"]["runAsNonRoot"]
    assert container(pod)["securityContext"]["allowPrivilegeEscalation"] is False


def test_what_a_server_writes_is_on_a_volume() -> None:
    pod = documents()["Deployment", "hythe"]["spec"]["template"]["spec"]
    [data] = re.findall(r"HYTHE_STORAGE_DIRECTORY=(\S+)", DOCKERFILE)
    mounts = {mount["mountPath"]: mount["name"] for mount in container(pod)["volumeMounts"]}
    assert any(Path(data).is_relative_to(path) for path in mounts)
    assert set(mounts.values()) == {volume["name"] for volume in pod["volumes"]}
    assert container(pod)["securityContext"]["readOnlyRootFilesystem"]


def test_selectors_and_ports_meet() -> None:
    found = documents()
    deployment = found["Deployment", "hythe"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    service = found["Service", "hythe"]["spec"]
    for selector in (
        deployment["selector"]["matchLabels"],
        service["selector"],
        found["PodDisruptionBudget", "hythe"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    [port] = container(deployment["template"]["spec"])["ports"]
    assert f"EXPOSE {port['containerPort']}" in DOCKERFILE
    assert service["ports"][0]["targetPort"] == port["name"]
    [rule] = found["Ingress", "hythe"]["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": "hythe", "port": {"name": service["ports"][0]["name"]}}
    assert settings()["HYTHE_SERVER_PUBLIC_URL"] == f"https://{rule['host']}"
    target = found["HorizontalPodAutoscaler", "hythe"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) in found
    assert "replicas" not in deployment, "applying it again would undo what the autoscaler did"


def test_a_stop_has_time_for_the_uploads_under_way() -> None:
    pod = documents()["Deployment", "hythe"]["spec"]["template"]["spec"]
    [*_, pause] = container(pod)["lifecycle"]["preStop"]["exec"]["command"]
    grace = config.load(None, {}).server.shutdown_grace_seconds
    assert pod["terminationGracePeriodSeconds"] > grace + float(pause)


def test_probes_ask_for_paths_that_a_server_answers(make_server: MakeServer, postgres: Postgres) -> None:
    deployment = container(documents()["Deployment", "hythe"]["spec"]["template"]["spec"])
    probes = {name: probe for name, probe in deployment.items() if name.endswith("Probe")}
    assert set(probes) == {"readinessProbe", "livenessProbe", "startupProbe"}
    database = postgres.empty_database()
    migrate_postgres(postgres.url(database))
    server = make_server(index={"url": postgres.url(database)})
    for name, probe in probes.items():
        asked = probe["httpGet"]
        assert asked["port"] == deployment["ports"][0]["name"]
        assert httpx.get(server.url + asked["path"], trust_env=False).status_code == 200, name
