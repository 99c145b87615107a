"""What an address may be, and what is said of one that is wrong."""

from __future__ import annotations

import pytest

from sweeps.storage.address import Address, folder_of, is_address
from sweeps.storage.errors import SecretError


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket",
        "s3://my.bucket-1/a/b",
        "gs://bucket/a",
        "s3://bucket/a?endpoint_override=127.0.0.1:9000&scheme=http",
    ],
)
def test_an_address_is_read_and_written_alike(text: str) -> None:
    assert is_address(text)
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3:/bucket/a", "did you mean 's3://bucket/a'"),
        ("S3://bucket", "did you mean 's3://bucket'"),
        ("s3a://bucket", "did you mean 's3://bucket'"),
        ("gcs://bucket/a", "did you mean 'gs://bucket/a'"),
        ("s4://bucket", "did you mean 's3'"),
        ("https://host/a", "expected a folder or an address, for example s3://BUCKET/PREFIX"),
        ("s3://", "expected a bucket name"),
        ("s3://My_Bucket/a", "expected a bucket name"),
        ("s3://bucket/../a", "expected a prefix without"),
        ("s3://bucket?regoin=x", "did you mean 'region'"),
        ("gs://bucket?region=x", "unknown option 'region'"),
    ],
)
def test_a_wrong_address_is_told_with_what_was_meant(text: str, said: str) -> None:
    assert is_address(text)
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        Address.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKIA:hidden@bucket/a",
        "s3://bucket?access_key=x&secret_key=hidden",
        "s4://a?token=hidden",
    ],
)
def test_a_secret_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(SecretError) as raised:
        Address.parse(text)
    assert "hidden" not in str(raised.value)
    assert "AWS_SECRET_ACCESS_KEY" in str(raised.value)


@pytest.mark.parametrize("text", ["runs", "/shared/runs", "~/runs", "a:b", "./s3"])
def test_a_folder_is_no_address(text: str) -> None:
    assert not is_address(text)


def test_two_addresses_never_share_a_mirror() -> None:
    texts = ["s3://bucket/a", "gs://bucket/a", "s3://bucket/a/b", "s3://bucket/a?region=x"]
    assert len({folder_of(text) for text in texts}) == len(texts)
    assert folder_of("s3://bucket/a/") == folder_of("s3://bucket/a")


def test_the_last_part_of_an_address_is_a_name_in_the_rest() -> None:
    storage, name = Address.parse("s3://bucket/a/b/sweep?region=x").split()
    assert (str(storage), name) == ("s3://bucket/a/b?region=x", "sweep")
