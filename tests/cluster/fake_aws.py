"""AWS played by moto's server on the loopback interface."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweeps.execution.cluster import free_port

ROOT = Path(__file__).resolve().parents[2]
REGION = "us-west-2"
BUCKET = "own-bucket"


@contextmanager
def serving_aws(home: Path) -> Iterator[dict[str, str]]:
    """An environment in which AWS is moto's server, and the home an empty folder."""
    port = free_port()
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": REGION,
        "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HOME": str(home),
    }
    program = str(Path(sys.executable).with_name("moto_server"))
    server = subprocess.Popen(
        [program, "-H", "127.0.0.1", "-p", str(port)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 120
        while not answers(port):
            assert time.monotonic() < end, "moto does not start"
            time.sleep(0.2)
        yield environment
    finally:
        server.kill()
        server.wait()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def client(aws: Mapping[str, str], service: str, keys: Mapping[str, str] | None = None) -> Any:
    """A client with the `Credentials` of a role, or with none that count."""
    import boto3

    keys = keys or {"AccessKeyId": "none", "SecretAccessKey": "none"}
    return boto3.client(
        service,
        region_name=REGION,
        endpoint_url=aws["AWS_ENDPOINT_URL"],
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys.get("SessionToken"),
    )


def create_roles(aws: dict[str, str]) -> None:
    """As the page on clusters says."""
    script = ROOT / "tools" / "cluster" / "create_roles.py"
    subprocess.run([sys.executable, str(script), BUCKET], env=aws, check=True)


@contextmanager
def authorizing(aws: Mapping[str, str]) -> Iterator[None]:
    """Moto checks every request against the policies of its sender."""
    before = _unchecked_requests(aws, "0")
    try:
        yield
    finally:
        _unchecked_requests(aws, before)


def _unchecked_requests(aws: Mapping[str, str], count: str) -> str:
    place = f"{aws['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
    plain = {"Content-Type": "text/plain"}
    asked = urllib.request.Request(place, method="POST", data=count.encode(), headers=plain)
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return str(json.load(answer)["PREVIOUS_INITIAL_NO_AUTH_ACTION_COUNT"])
