"""The deployment guide: its manifests are valid, and agree with the image and the settings."""

import copy
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from chassis import ChassisSettings

from tests.conftest import Render
from tests.repository import ROOT

GUIDE = (ROOT / "template/chassis/docs/deployment.md").read_text(encoding="utf-8")
VERSIONS = ["1.29", kubernetes_validate.latest_version()]
# What is left for connections to the database to be closed, at least.
TO_CLOSE_SECONDS = 5
DRAIN = re.compile(r"APP_SERVER_DRAIN_SECONDS=(\d+)")

FRONTEND = """
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
frontend public
    bind 127.0.0.1:8080
    default_backend my-service
"""

Manifest = dict[str, Any]


class StrictLoader(yaml.SafeLoader):
    """A loader that refuses a key that is there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise yaml.YAMLError(f"{', '.join(twice)} twice{node.start_mark}")
        return super().construct_mapping(node, deep=deep)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)


def manifests() -> dict[str, Manifest]:
    loaded = [yaml.load(block, StrictLoader) for block in blocks("yaml")]
    return {manifest["kind"]: manifest for manifest in loaded}


def pod(manifest: Manifest) -> Manifest:
    spec = manifest["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def container(manifest: Manifest) -> Manifest:
    [only] = pod(manifest)["containers"]
    assert isinstance(only, dict)
    return only


def is_valid(manifest: Manifest, version: str) -> bool:
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError:
        return False
    return True


@pytest.fixture(scope="module")
def dockerfile(rendered: Render) -> str:
    """The Dockerfile that is rendered."""
    return (rendered() / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["Job", "Deployment", "Service"])
def test_a_manifest_is_valid_and_nothing_in_it_is_unknown(kind: str, version: str) -> None:
    kubernetes_validate.validate(manifests()[kind], version, strict=True)


@pytest.mark.parametrize("name", ["restartPolicies", "readynessProbe"])
def test_a_wrong_name_in_a_manifest_is_seen(name: str) -> None:
    wrong = copy.deepcopy(manifests()["Deployment"])
    assert is_valid(wrong, VERSIONS[0])
    container(wrong)[name] = {}
    assert not is_valid(wrong, VERSIONS[0])


def test_a_key_that_is_there_twice_is_seen() -> None:
    with pytest.raises(yaml.YAMLError, match="replicas twice"):
        yaml.load("spec: {replicas: 1, paused: true, replicas: 2}", StrictLoader)


def test_the_manifests_belong_together() -> None:
    found = manifests()
    assert len(found) == len(blocks("yaml")) == 3
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    # Else the Service would send requests to the Job's pod.
    assert found["Job"]["spec"]["template"]["metadata"]["labels"] != labels
    assert container(found["Job"])["image"] == container(found["Deployment"])["image"]
    ports = {port["name"] for port in container(found["Deployment"])["ports"]}
    probes = ("startupProbe", "livenessProbe", "readinessProbe")
    asked = [container(found["Deployment"])[probe]["httpGet"] for probe in probes]
    assert ports == {get["port"] for get in asked}
    assert ports == {port["targetPort"] for port in found["Service"]["spec"]["ports"]}
    assert [get["path"] for get in asked] == ["/livez", "/livez", "/readyz"]


def test_the_pods_are_what_the_image_is_made_for(dockerfile: str) -> None:
    user, group = map(int, re.findall(r"^USER (\d+):(\d+)$", dockerfile, re.MULTILINE)[0])
    [port] = map(int, re.findall(r"^EXPOSE (\d+)$", dockerfile, re.MULTILINE))
    found = manifests()
    assert container(found["Deployment"])["ports"] == [{"name": "http", "containerPort": port}]
    for kind in ("Job", "Deployment"):
        assert (
            pod(found[kind])["securityContext"].items()
            >= {
                "runAsNonRoot": True,
                "runAsUser": user,
                "runAsGroup": group,
            }.items()
        )
        assert container(found[kind])["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        places = [mount["mountPath"] for mount in container(found[kind])["volumeMounts"]]
        assert places == ["/tmp"]


@pytest.mark.parametrize("kind", ["Job", "Deployment"])
def test_a_pod_has_settings_that_exist_and_secrets_by_reference(kind: str) -> None:
    known = {f"APP_{name.upper()}" for name in ChassisSettings.model_fields}
    variables = {entry["name"]: entry for entry in container(manifests()[kind])["env"]}
    assert variables.keys() <= known
    [secret] = [name for name, entry in variables.items() if "value" not in entry]
    assert secret == "APP_DATABASE_POSTGRES_PASSWORD"
    reference = variables[secret]["valueFrom"]["secretKeyRef"]
    create = f"kubectl create secret generic {reference['name']} --from-literal={reference['key']}="
    assert create in GUIDE


@pytest.mark.parametrize("kind", ["Job", "Deployment"])
def test_no_service_of_the_namespace_sets_variables(kind: str) -> None:
    assert pod(manifests()[kind])["enableServiceLinks"] is False


def test_the_job_needs_nothing_that_is_made_later() -> None:
    job = manifests()["Job"]
    assert "serviceAccountName" not in pod(job)
    assert pod(job)["automountServiceAccountToken"] is False
    text = yaml.safe_dump(job)
    assert not re.search(r"configMap|persistentVolumeClaim|imagePullSecrets|envFrom", text)
    assert container(job)["args"] == ["migrate", "--wait"]
    applied = re.findall(r"job/(\S+)", GUIDE)
    assert applied == [job["metadata"]["name"]]


def test_a_pod_is_given_the_time_that_the_server_takes(dockerfile: str, rendered: Render) -> None:
    drain = int(DRAIN.findall(dockerfile)[0])
    grace = ChassisSettings.model_fields["server_graceful_timeout_seconds"].default
    deployment = manifests()["Deployment"]
    [program, seconds] = container(deployment)["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    needed = int(seconds) + drain + grace + TO_CLOSE_SECONDS
    assert pod(deployment)["terminationGracePeriodSeconds"] >= needed

    compose = yaml.safe_load((rendered() / "compose.yaml").read_text(encoding="utf-8"))
    given = int(compose["services"]["service"]["stop_grace_period"].removesuffix("s"))
    assert given >= drain + grace + TO_CLOSE_SECONDS

    probe = container(deployment)["readinessProbe"]
    assert drain > probe["periodSeconds"] * probe["failureThreshold"]


def test_every_variable_of_the_guide_exists() -> None:
    known = {f"APP_{name.upper()}" for name in ChassisSettings.model_fields}
    named = set(re.findall(r"\bAPP_[A-Z_]+[A-Z]\b(?!_?\*)", GUIDE)) - {"APP_DATABASE"}
    assert named
    assert named <= known


@pytest.mark.skipif(not shutil.which("haproxy"), reason="needs haproxy")
def test_the_load_balancer_s_configuration_is_valid(tmp_path: Path) -> None:
    [backend] = blocks("haproxy")
    settings = tmp_path / "haproxy.cfg"
    settings.write_text(f"{FRONTEND}{backend}", encoding="utf-8")
    checked = subprocess.run(
        ["haproxy", "-c", "-f", str(settings)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
