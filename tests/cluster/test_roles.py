"""The roles of head and workers against moto with authorization: what they may do and may not.

Moto checks who may do what, and for buckets where. It knows no condition and no resource of EC2,
so these are left out where it checks, and read from the file below.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.fake_aws import (
    BUCKET,
    REGION,
    ROOT,
    authorizing,
    client,
    create_roles,
    serving_aws,
)

pytest.importorskip("moto")
boto = pytest.importorskip("botocore.exceptions")

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
Keys = Mapping[str, str]


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with serving_aws(tmp_path_factory.mktemp("home")) as environment:
        create_roles(environment)
        create_roles(environment)  # again, to change the policies
        place = {"LocationConstraint": REGION}
        for name in (BUCKET, "another"):
            client(environment, "s3").create_bucket(Bucket=name, CreateBucketConfiguration=place)
        forget_what_moto_cannot_check(environment)
        yield environment


def forget_what_moto_cannot_check(aws: dict[str, str]) -> None:
    iam, role = client(aws, "iam"), "gmt-sweep-head"
    policy = iam.get_role_policy(RoleName=role, PolicyName="autoscaler")["PolicyDocument"]
    for statement in policy["Statement"]:
        statement.pop("Condition", None)
        statement["Resource"] = "*"
    text = json.dumps(policy)
    iam.put_role_policy(RoleName=role, PolicyName="autoscaler", PolicyDocument=text)


@pytest.fixture(scope="module")
def keys(aws: dict[str, str]) -> dict[str, Keys]:
    """The credentials that the metadata service gives to head and workers."""
    iam, sts = client(aws, "iam"), client(aws, "sts")
    found = {}
    for kind in ("head", "worker"):
        arn = iam.get_role(RoleName=f"gmt-sweep-{kind}")["Role"]["Arn"]
        found[kind] = sts.assume_role(RoleArn=arn, RoleSessionName=kind)["Credentials"]
    return found


def refused(call: Callable[[], object]) -> bool:
    """Whether a request is refused for want of rights."""
    try:
        call()
    except boto.ClientError as error:
        code = error.response["Error"]["Code"]
        assert code in ("AccessDenied", "UnauthorizedOperation", "403"), error
        return True
    return False


def node_config(aws: dict[str, str]) -> dict[str, Any]:
    """Of an on-demand worker, with the placeholders of the file filled in."""
    ec2 = client(aws, "ec2")
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    text = text.replace("ami-00000000000000000", ec2.describe_images()["Images"][0]["ImageId"])
    group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
    text = text.replace("sg-00000000000000000", group)
    kind = yaml.safe_load(text)["available_node_types"]["worker.24gb.on_demand"]
    subnets = [each["SubnetId"] for each in ec2.describe_subnets()["Subnets"]]
    return {**kind["node_config"], "SubnetIds": subnets[:1]}


def provider_of(keys: Keys, aws: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What Ray's autoscaler starts and ends nodes with."""
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    monkeypatch.setenv("AWS_ENDPOINT_URL", aws["AWS_ENDPOINT_URL"])
    own = {
        "aws_access_key_id": keys["AccessKeyId"],
        "aws_secret_access_key": keys["SecretAccessKey"],
        "aws_session_token": keys["SessionToken"],
    }
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    provider = {**cluster["provider"], "aws_credentials": own}
    return AWSNodeProvider(provider, cluster["cluster_name"])


def instance(aws: dict[str, str]) -> dict[str, Any]:
    (found,) = client(aws, "ec2").describe_instances()["Reservations"][0]["Instances"]
    return dict(found)


TAGS = {"ray-node-kind": "worker", "ray-user-node-type": "worker.24gb.on_demand"}


def test_the_head_starts_finds_and_ends_workers(
    aws: dict[str, str], keys: dict[str, Keys], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = node_config(aws)
    with authorizing(aws):
        provider = provider_of(keys["head"], aws, monkeypatch)
        provider.create_node(node, TAGS, 1)
        (name,) = provider.non_terminated_nodes({})
        provider.set_node_tags(name, {"ray-node-status": "up-to-date"})
    assert instance(aws)["IamInstanceProfile"]["Arn"].endswith("/gmt-sweep-worker")
    with authorizing(aws):
        provider.terminate_node(name)
    assert instance(aws)["State"]["Name"] in ("shutting-down", "terminated")


def test_a_worker_starts_and_ends_nothing(aws: dict[str, str], keys: dict[str, Keys]) -> None:
    image = client(aws, "ec2").describe_images()["Images"][0]["ImageId"]
    with authorizing(aws):
        ec2 = client(aws, "ec2", keys["worker"])
        assert refused(lambda: ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1))
        assert refused(ec2.describe_instances)
        assert refused(client(aws, "iam", keys["worker"]).list_roles)


def test_the_head_has_no_other_rights(aws: dict[str, str], keys: dict[str, Keys]) -> None:
    with authorizing(aws):
        ec2, iam = client(aws, "ec2", keys["head"]), client(aws, "iam", keys["head"])
        assert refused(lambda: ec2.create_security_group(GroupName="open", Description="open"))
        assert refused(ec2.describe_images)
        assert refused(iam.list_roles)
        assert refused(lambda: iam.create_role(RoleName="x", AssumeRolePolicyDocument="{}"))
        assert refused(client(aws, "s3", keys["head"]).list_buckets)


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_both_use_the_bucket_and_no_other(
    kind: str, aws: dict[str, str], keys: dict[str, Keys], tmp_path: Path
) -> None:
    """The requests that a sweep sends: of small files and of large ones in parts."""
    large = tmp_path / "large"
    large.write_bytes(b"0" * (9 << 20))
    with authorizing(aws):
        s3 = client(aws, "s3", keys[kind])
        s3.put_object(Bucket=BUCKET, Key="runs/lease", Body=b"1")
        s3.upload_file(str(large), BUCKET, "runs/large")
        assert s3.head_object(Bucket=BUCKET, Key="runs/large")["ContentLength"] == 9 << 20
        assert s3.get_object(Bucket=BUCKET, Key="runs/lease")["Body"].read() == b"1"
        listed = s3.list_objects_v2(Bucket=BUCKET, Prefix="runs/")["Contents"]
        assert len(listed) == 2
        for each in listed:
            s3.delete_object(Bucket=BUCKET, Key=each["Key"])
        assert refused(lambda: s3.list_objects_v2(Bucket="another"))
        assert refused(lambda: s3.put_object(Bucket="another", Key="x", Body=b""))
        assert refused(lambda: s3.delete_bucket(Bucket=BUCKET))
        assert refused(lambda: s3.create_bucket(Bucket="third"))
