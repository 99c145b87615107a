"""Create the two roles of cluster.yaml, each with an instance profile of its name.

    python tools/cluster/create_roles.py BUCKET

gmt-sweep-head may start, tag and terminate the nodes of the cluster, and use the bucket;
gmt-sweep-worker may only use the bucket. The policies are in iam/. Run it once, with rights to
change IAM; run it again to change the policies.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3

POLICIES = {"head": ("storage", "autoscaler"), "worker": ("storage",)}
HERE = Path(__file__).parent / "iam"


def create_roles(bucket: str, iam: Any) -> None:
    """Create or update both roles for a bucket, and EC2's own role for spot nodes."""
    errors, trust = iam.exceptions, (HERE / "trust.json").read_text()
    for kind, policies in POLICIES.items():
        name = f"gmt-sweep-{kind}"
        with suppress(errors.EntityAlreadyExistsException):
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
        for policy in policies:
            text = (HERE / f"{policy}.json").read_text().replace("BUCKET", bucket)
            iam.put_role_policy(RoleName=name, PolicyName=policy, PolicyDocument=text)
        with suppress(errors.EntityAlreadyExistsException):
            iam.create_instance_profile(InstanceProfileName=name)
        with suppress(errors.LimitExceededException):
            iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    with suppress(errors.InvalidInputException, errors.EntityAlreadyExistsException):
        iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    create_roles(sys.argv[1], boto3.client("iam"))
