"""Manifests of the platforms, held against the published schemas and against what the function really has."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import orjson
import pytest
import yaml

from handler.contract import ENDPOINTS
from handler.settings import Settings

ROOT = Path(__file__).parent.parent.parent
INFRA = ROOT / "infra"
SCHEMAS = Path(__file__).parent / "schemas"
KUBERNETES = "1.37"
USER = 10001
ENGINE_S, LOG_S = 10, 7
"""What stopping the engine and shipping the log may take, behind DRAIN_TIMEOUT."""


def documents(path: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all((INFRA / path).read_text()) if each is not None]


def closed(schema: Any) -> Any:
    """The schema without room for what it does not name: Kubernetes would drop it in silence."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    is_object = "properties" in made and isinstance(made["properties"], dict) and "type" in made
    if is_object and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def check(document: dict[str, Any], schema_name: str) -> None:
    schema = closed(orjson.loads((SCHEMAS / f"{schema_name}.json").read_bytes()))
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(document, schema)


def container_of(document: dict[str, Any]) -> dict[str, Any]:
    (container,) = document["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = container
    return found


def environment_of(container: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in container["env"]}


def merged(base: Any, patch: Any) -> Any:
    """A strategic merge as far as these patches go: lists of named things by name, other lists as they are."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return {**base, **{key: merged(base.get(key), value) for key, value in patch.items()}}
    if isinstance(base, list) and isinstance(patch, list) and all("name" in each for each in (*base, *patch)):
        by_name = {each["name"]: each for each in base}
        return [*({**by_name, **{each["name"]: merged(by_name.get(each["name"]), each) for each in patch}}).values()]
    return patch


def deployment() -> dict[str, Any]:
    return documents("kubernetes/pilotlight.yaml")[0]


def gpu_deployment() -> dict[str, Any]:
    (patch,) = documents("kubernetes/gpu.yaml")
    return merged(deployment(), patch)  # type: ignore[no-any-return]


SERVICES = {
    "kubernetes": deployment,
    "kubernetes, GPU": gpu_deployment,
    "knative": lambda: documents("knative/service.yaml")[0],
    "cloudrun": lambda: documents("cloudrun/service.yaml")[0],
}


@pytest.mark.parametrize(
    "document", [*documents("kubernetes/pilotlight.yaml"), gpu_deployment()], ids=lambda document: document["kind"]
)
def test_kubernetes_takes_the_manifests(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_misspelt_field_would_be_noticed() -> None:
    document = copy.deepcopy(deployment())
    document["spec"]["template"]["spec"]["terminationGracePeriod"] = 30
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    (service,) = documents("knative/service.yaml")
    service["spec"]["template"]["spec"]["timeoutSecond"] = 600
    with pytest.raises(jsonschema.ValidationError, match="timeoutSecond"):
        check(service, "knative-service")


def test_kedas_resources_follow_their_definitions() -> None:
    route, scaled = documents("kubernetes/keda.yaml")
    check(route, "interceptorroute")
    check(scaled, "scaledobject")
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["metadata"]["interceptorRoute"] == route["metadata"]["name"]
    names = {document["kind"]: document["metadata"]["name"] for document in documents("kubernetes/pilotlight.yaml")}
    assert route["spec"]["target"]["service"] == names["Service"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == names["Deployment"]


@pytest.mark.parametrize("platform", ["knative", "cloudrun"])
def test_knatives_services_follow_their_definition(platform: str) -> None:
    check(SERVICES[platform](), "knative-service")


@pytest.mark.parametrize("path", ["compose/compose.yaml", "compose/gpu.yaml"])
def test_compose_files_follow_the_specification(path: str) -> None:
    (document,) = documents(path)
    validator = jsonschema.Draft7Validator(orjson.loads((SCHEMAS / "compose.json").read_bytes()))
    validator.validate(document)
    document["services"]["pilotlight"]["enviroment"] = {}
    with pytest.raises(jsonschema.ValidationError, match="enviroment"):
        validator.validate(document)


def test_files_that_compose_mounts_are_there() -> None:
    (document,) = documents("compose/compose.yaml")
    sources = [
        volume.split(":")[0]
        for service in document["services"].values()
        for volume in service.get("volumes", ())
        if volume.startswith(".")
    ]
    assert len(sources) == 4
    assert [source for source in sources if not (INFRA / "compose" / source).exists()] == []
    assert (INFRA / "compose" / document["services"]["pilotlight"]["build"]["context"] / "Dockerfile").is_file()


def _given_settings() -> list[tuple[str, str, str]]:
    """Of all platforms: where, name, value; those that come from secrets or other places have none."""
    found = []
    for platform, document in SERVICES.items():
        found += [(platform, name, value or "") for name, value in environment_of(container_of(document())).items()]
    for path in ("compose/compose.yaml", "compose/gpu.yaml"):
        environ = documents(path)[0]["services"]["pilotlight"]["environment"]
        found += [(path, name, value if "${" not in value else "") for name, value in environ.items()]
    for line in (INFRA / "systemd" / "pilotlight.service").read_text().splitlines():
        if line.startswith("Environment="):
            pairs = [each.split("=", 1) for each in line.removeprefix("Environment=").split()]
            found += [("systemd", name, value) for name, value in pairs]
    return found


@pytest.mark.parametrize(("where", "name", "value"), _given_settings())
def test_what_is_set_is_a_setting_and_takes_the_value(where: str, name: str, value: str) -> None:
    assert name.lower() in Settings.__struct_fields__, where
    Settings.from_env({name: value})


@pytest.mark.parametrize("platform", SERVICES)
def test_probes_ask_for_paths_that_need_no_key(platform: str) -> None:
    container = container_of(SERVICES[platform]())
    probes = {name: container[name]["httpGet"]["path"] for name in container if name.endswith("Probe")}
    assert set(probes) >= {"livenessProbe"}
    assert {endpoint.path for endpoint in ENDPOINTS} >= set(probes.values())
    assert set(Settings.from_env({}).keyless_paths) >= set(probes.values())
    assert probes["livenessProbe"] == "/health"
    assert probes.get("readinessProbe", "/ready") == "/ready"


def test_kubernetes_waits_for_a_drain_before_it_kills() -> None:
    spec = deployment()["spec"]["template"]["spec"]
    container = container_of(deployment())
    pre_stop_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain_s = float(environment_of(container)["DRAIN_TIMEOUT"])
    assert spec["terminationGracePeriodSeconds"] >= pre_stop_s + drain_s + ENGINE_S + LOG_S


def test_the_proxy_waits_as_long_as_a_boot_may_take() -> None:
    route, _ = documents("kubernetes/keda.yaml")
    probe = container_of(deployment())["startupProbe"]
    timeouts = {name: float(value.removesuffix("s")) for name, value in route["spec"]["timeouts"].items()}
    assert timeouts["readiness"] >= probe["periodSeconds"] * probe["failureThreshold"]
    assert timeouts["responseHeader"] > Settings.from_env({}).request_timeout
    assert timeouts["request"] == 0
    assert route["spec"]["scalingMetric"]["concurrency"]["targetValue"] == Settings.from_env({}).max_batch_size


def test_knative_lets_a_silent_stream_be() -> None:
    spec = SERVICES["knative"]()["spec"]["template"]["spec"]
    assert spec["idleTimeoutSeconds"] > 2 * Settings.from_env({}).heartbeat_interval
    assert spec["timeoutSeconds"] >= Settings.from_env({}).request_timeout


def test_cloud_run_is_asked_for_no_more_than_it_gives() -> None:
    service = SERVICES["cloudrun"]()
    container = container_of(service)
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] <= 240
    assert probe["httpGet"]["path"] == "/health", "a model may take longer than that"
    drain_s = float(environment_of(container)["DRAIN_TIMEOUT"])
    assert drain_s + LOG_S <= 10, "SIGKILL follows 10 s after SIGTERM"


def test_the_user_of_the_image_is_the_user_of_the_manifest() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"USER {USER}\n" in dockerfile
    assert f"--uid {USER} " in dockerfile
    context = deployment()["spec"]["template"]["spec"]["securityContext"]
    assert (context["runAsUser"], context["fsGroup"]) == (USER, USER)
    home = next(m for m in container_of(deployment())["volumeMounts"] if m["name"] == "home")
    assert f"PILOTLIGHT_HOME={home['mountPath']}" in dockerfile


@pytest.mark.parametrize("path", sorted(INFRA.glob("*/README.md")), ids=lambda path: path.parent.name)
def test_files_that_a_readme_names_are_there(path: Path) -> None:
    text = path.read_text()
    named = re.findall(r"infra/[a-z]+/[a-z_.-]+\.(?:ya?ml|py|socket|service|json|sh)", text)
    assert [each for each in named if not (ROOT / each).is_file()] == []
    links = re.findall(r"\]\(([^)#]+)", text)
    assert [each for each in links if not each.startswith("http") and not (path.parent / each).exists()] == []
