"""`ray up cluster.yaml` against moto's AWS: what Ray asks of the cloud is what the file says.

Moto starts no machine, so `ray up` is ended where it waits for the head's SSH server. What comes
after that, `test_local_cluster.py` shows on hosts of our own. Moto also takes any instance type,
price and quota, and opens and closes no port: those only AWS itself can check.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.fake_aws import ROOT, client, create_roles, serving_aws

pytest.importorskip("moto")
pytest.importorskip("boto3")

MARKETS = ("spot", "on_demand")
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with serving_aws(tmp_path_factory.mktemp("home")) as environment:
        create_roles(environment)
        yield environment


@pytest.fixture(scope="module")
def head(aws: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The instance that `ray up` asked for, with the placeholders of the file filled in."""
    ec2 = client(aws, "ec2")
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    group = ec2.create_security_group(GroupName="own", Description="own", VpcId=vpc)["GroupId"]
    image = ec2.describe_images()["Images"][0]["ImageId"]
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    text = text.replace("ami-00000000000000000", image).replace("sg-00000000000000000", group)
    file = tmp_path_factory.mktemp("cluster") / "cluster.yaml"
    file.write_text(text)
    token = Path(aws["HOME"]) / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0" * 64)
    ray = str(Path(sys.executable).with_name("ray"))
    with (file.parent / "log").open("w") as log:
        up = subprocess.Popen(
            [ray, "up", "-y", "--no-config-cache", str(file)],
            cwd=ROOT,
            env=aws,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
        try:
            return wait_for_head(ec2, up, file.parent / "log")
        finally:
            up.kill()
            up.wait()


def wait_for_head(ec2: Any, up: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    end = time.monotonic() + 180
    while time.monotonic() < end and up.poll() is None:
        for reservation in ec2.describe_instances()["Reservations"]:
            instance: dict[str, Any] = reservation["Instances"][0]
            names = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
            # Its disks and its role are attached a moment after its tags.
            whole = instance["BlockDeviceMappings"] and "IamInstanceProfile" in instance
            if names.get("ray-node-type") == "head" and whole:
                return instance
        time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def test_only_the_head_is_started_and_carries_the_tags(
    aws: dict[str, str], head: dict[str, Any]
) -> None:
    found = client(aws, "ec2").describe_instances()["Reservations"]
    assert sum(len(each["Instances"]) for each in found) == 1
    tags = {tag["Key"]: tag["Value"] for tag in head["Tags"]}
    assert tags["project"] == "gmt-sweep" and tags["owner"] == "unknown"
    assert tags["ray-cluster-name"] == "gmt-sweep" and tags["ray-user-node-type"] == "head.cpu"
    assert head["InstanceType"] == "m6i.2xlarge"


def test_its_disk_is_encrypted_and_goes_with_it(aws: dict[str, str], head: dict[str, Any]) -> None:
    disks = [disk["Ebs"] for disk in head["BlockDeviceMappings"]]
    assert len(disks) == 1 and disks[0]["DeleteOnTermination"]
    volume = client(aws, "ec2").describe_volumes(VolumeIds=[disks[0]["VolumeId"]])["Volumes"][0]
    assert (volume["Size"], volume["VolumeType"], volume["Encrypted"]) == (200, "gp3", True)


def test_it_has_the_role_of_heads_and_ray_made_no_other(
    aws: dict[str, str], head: dict[str, Any]
) -> None:
    iam = client(aws, "iam")
    profile = head["IamInstanceProfile"]["Arn"].rpartition("/")[2]
    assert profile == "gmt-sweep-head"
    made = {role["RoleName"] for role in iam.list_roles()["Roles"]}
    assert {name for name in made if not name.startswith("AWSServiceRole")} == {
        "gmt-sweep-head",
        "gmt-sweep-worker",
    }


def test_its_security_group_is_ours_alone_and_ray_opened_nothing(
    aws: dict[str, str], head: dict[str, Any]
) -> None:
    assert [group["GroupName"] for group in head["SecurityGroups"]] == ["own"]
    groups = client(aws, "ec2").describe_security_groups()["SecurityGroups"]
    assert {group["GroupName"] for group in groups} == {"own", "default"}
    for group in groups:
        for rule in group["IpPermissions"]:
            assert not rule.get("IpRanges"), f"{group['GroupName']} is open: {rule}"


def test_the_file_names_all_it_needs(head: dict[str, Any]) -> None:
    """A placeholder that this test did not fill in would have stopped `ray up`."""
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    assert set(config["available_node_types"]) == {
        "head.cpu",
        *(f"worker.{size}.{market}" for size in ("24gb", "80gb") for market in MARKETS),
    }
