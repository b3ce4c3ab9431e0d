"""BentoML's options, as the file that BENTOML_CONFIG names may set them: those that hold here, and what to use instead
of the others.

BentoML's own middleware sees only the few paths that BentoML answers. So these options would be ignored for all others
if they were not applied here, or refused.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bentoml
from bentoml._internal.configuration import (
    get_bentoml_config_file_from_env,
    get_bentoml_override_config_from_env,
    get_bentoml_override_config_json_from_env,
)
from bentoml._internal.configuration.containers import BentoMLConfiguration, BentoMLContainer
from bentoml._internal.configuration.helpers import load_config_file
from bentoml.exceptions import BentoMLException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

NAME = "percept"
HELD = ("workers", "backlog", "resources.", "http.host", "http.port", "http.cors.", "ssl.", "tracing.")
INSTEAD = {
    "traffic.timeout": "a body has 30 seconds to arrive, plus one for each 256 KiB, and PERCEPT_MAX_BYTES, "
    "PERCEPT_MAX_PIXELS, PERCEPT_MAX_SECONDS and PERCEPT_MAX_BATCH limit the work of a request",
    "traffic.max_concurrency": "use PERCEPT_MAX_CONCURRENCY",
    "logging.": "use PERCEPT_LOG=json, which logs every request",
    "monitoring.": "use PERCEPT_LOG=json, which logs every answer",
    "metrics.": "/metrics always has percept's own",
    "http.response.": "every answer has an X-Request-ID",
    "endpoints.": "/livez and /readyz are always there",
    "threads": "there are as many as the process may use cores",
}
LISTS = ("allow_origins", "allow_methods", "allow_headers", "expose_headers")  # of the CORS options


def check(service: "bentoml.Service[Any]", is_supervisor: bool) -> None:
    """Raises ValueError for an option that would be ignored, or is not valid."""
    given = dict(_given())
    for key, value in given.items():
        _check_held(key, value)
    if not given:
        return
    try:
        service.inject_config()
    except BentoMLException as error:
        key = ".".join(re.findall(r"Key '([^']+)' error", str(error)))  # of the schema that BentoML checks
        raise ValueError(f"BENTOML_CONFIG: {key or error} is not valid") from None
    config = BentoMLContainer.config.services[NAME].get()
    _check_cors(config["http"]["cors"])
    _check_tls(config["ssl"])
    _check_tracing(config["tracing"], is_supervisor)


def around(application: ASGIApp) -> ASGIApp:
    """The whole application with BentoML's options applied to it, and no longer to BentoML's part."""
    if BentoMLContainer.http.cors.enabled.get():
        application = CORSMiddleware(application, **_cors_options())
    if BentoMLContainer.config.tracing.exporter_type.get() is not None:
        application = _traced(application)
    return application


def _traced(application: ASGIApp) -> ASGIApp:
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    excluded = BentoMLContainer.tracing_excluded_urls.get()
    provider = BentoMLContainer.tracer_provider.get()
    # Without spans of its own for each chunk that is received, uvicorn's `receive` reaches the application.
    return OpenTelemetryMiddleware(
        application, excluded_urls=excluded, tracer_provider=provider, exclude_spans=["receive"]
    )


def _cors_options() -> dict[str, Any]:
    """BentoML's, with "GET, POST" as a list; BentoML passes the string on, of which each letter would be a method."""
    options = BentoMLContainer.access_control_options.get()
    return {
        name: [part.strip() for part in value.split(",")] if name in LISTS and isinstance(value, str) else value
        for name, value in options.items()
    }


def _given() -> Iterator[tuple[str, Any]]:
    """The options that the user sets for this service, or for all; keys as "http.cors.enabled"."""
    for variable, config in _sources():
        if not isinstance(config, dict):
            raise ValueError(f"{variable}: expected a mapping with the key services")
        for key, value in config.items():
            if key != "version" and key != "services":
                raise ValueError(f"{variable}: {key} is not read; options stand under services.{NAME}")
            if key == "services" and isinstance(value, dict):
                yield from _of_service(variable, value)


def _of_service(variable: str, services: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    defaults = BentoMLConfiguration(use_version=2, validate_schema=False).to_dict()["services"]
    for key, value in services.items():
        if key in defaults:
            yield from _flat(value, key)
        elif key == NAME:
            if not isinstance(value, dict | type(None)):
                raise ValueError(f"{variable}: services.{NAME}: expected a mapping of options")
            for inner, option in (value or {}).items():
                yield from _flat(option, inner)
        elif key.lower() == NAME:
            raise ValueError(f"{variable}: services.{key}: the service's name is {NAME}")


def _sources() -> Iterator[tuple[str, Any]]:
    if path := get_bentoml_config_file_from_env():
        yield f"BENTOML_CONFIG={path}", load_config_file(path) or {}
    if overrides := get_bentoml_override_config_json_from_env():
        yield "BENTOML_CONFIG_OVERRIDES", overrides
    if os.environ.get("BENTOML_CONFIG_OPTIONS") and get_bentoml_override_config_from_env():
        raise ValueError(
            "BENTOML_CONFIG_OPTIONS is not read; use BENTOML_CONFIG, or BENTOML_CONFIG_OVERRIDES with JSON"
        )


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for inner, option in value.items():
            yield from _flat(option, f"{key}.{inner}")
    else:
        yield key, value


def _check_held(key: str, value: Any) -> None:
    is_off = value is None or (value is False and key.endswith(".enabled") and not key.startswith("metrics."))
    if is_off or any(key == held or (held.endswith(".") and key.startswith(held)) for held in HELD):
        return
    instead = next((text for start, text in INSTEAD.items() if key.startswith(start)), "percept does not use it")
    raise ValueError(f"services.{NAME}.{key}={json.dumps(value)} would have no effect: {instead}")


def _check_cors(cors: dict[str, Any]) -> None:
    if cors["enabled"] and not (cors["access_control_allow_origins"] or cors["access_control_allow_origin_regex"]):
        raise ValueError(f"services.{NAME}.http.cors: set access_control_allow_origins")
    if not cors["enabled"] and any(value for key, value in cors.items() if key != "enabled"):
        raise ValueError(f"services.{NAME}.http.cors would have no effect: set enabled to true")


def _check_tls(tls: dict[str, Any]) -> None:
    if not tls["enabled"]:
        if tls["certfile"] or tls["keyfile"]:
            raise ValueError(f"services.{NAME}.ssl: set enabled to true")
        return
    if not tls["certfile"]:
        raise ValueError(f"services.{NAME}.ssl: set certfile")
    from uvicorn.config import create_ssl_context

    paths = [tls[name] for name in ("certfile", "keyfile", "ca_certs") if tls[name]]
    files = ", ".join(paths)
    if not all(Path(path).is_absolute() for path in paths):  # a worker runs in another folder
        raise ValueError(f"services.{NAME}.ssl: {files}: expected absolute paths")
    names = ("certfile", "keyfile", "keyfile_password", "version", "cert_reqs", "ca_certs", "ciphers")
    try:
        create_ssl_context(*(tls[name] for name in names))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ValueError(f"services.{NAME}.ssl: {files} cannot be used: {error}") from None


def _check_tracing(tracing: dict[str, Any], is_supervisor: bool) -> None:
    """A worker makes its exporter itself, since its spans name the worker."""
    exporter = tracing["exporter_type"]
    if exporter is None:
        if any(value is not None for key, value in _flat(tracing, "") if key != ".jaeger.protocol"):
            raise ValueError(f"services.{NAME}.tracing would have no effect: set exporter_type")
        return
    if tracing["sample_rate"] is None:
        raise ValueError(
            f"services.{NAME}.tracing: set sample_rate; 1.0 traces every request, and nothing is by default"
        )
    if exporter == "otlp" and tracing["otlp"]["protocol"] is None:
        raise ValueError(f"services.{NAME}.tracing.otlp: set protocol to http or grpc")
    if not is_supervisor:
        return
    try:
        BentoMLContainer.tracer_provider.get().shutdown()
    except ImportError as error:
        raise ValueError(f"services.{NAME}.tracing: {error}; install bentoml[tracing-{exporter}]") from None
    except Exception as error:  # whatever an exporter says of its options
        raise ValueError(f"services.{NAME}.tracing: {' '.join(str(error).split())}") from None
