"""Jobs that the driver itself has done: scoring on test items, measurements."""

from __future__ import annotations

from typing import cast

import pytest

from sweeps.execution.job_client import MAX_GROUPS, GroupLostError, JobClient
from sweeps.execution.job_messages import Ending, Failed, Job, MeasuringJob, Refused, Scored
from sweeps.execution.test_scoring import completed
from sweeps.execution.worker_groups import result_of
from sweeps.storage.errors import UserError

JOB = MeasuringJob("sums/test/000", {}, 0)
SCORED = Scored({}, {})


class Losing:
    """A client whose first groups are lost."""

    def __init__(self, losses: int) -> None:
        self.left, self.submitted = losses, 0

    def submit(self, job: Job) -> None:
        assert job is JOB
        self.submitted += 1

    def last(self) -> Ending:
        if self.left:
            self.left -= 1
            raise GroupLostError("its machine is gone")
        return SCORED


@pytest.mark.parametrize("losses", range(MAX_GROUPS))
def test_a_job_that_lost_its_group_is_given_to_another(losses: int) -> None:
    client = Losing(losses)
    assert result_of(cast(JobClient, client), JOB) == SCORED
    assert client.submitted == losses


def test_a_job_that_lost_every_group_ends_with_the_reason_and_no_traceback() -> None:
    result = result_of(cast(JobClient, Losing(MAX_GROUPS)), JOB)
    assert result == Failed("infrastructure", "its machine is gone")
    with pytest.raises(UserError, match="scoring failed: its machine is gone"):
        completed([SCORED, result], Scored, "scoring")


def test_a_mistake_in_the_data_is_told_as_it_is() -> None:
    with pytest.raises(UserError, match="test_items: line 3"):
        completed([Refused("test_items: line 3")], Scored, "scoring")
