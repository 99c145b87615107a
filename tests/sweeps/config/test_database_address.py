"""What is taken for a database's address, and what a mistyped one is told."""

from __future__ import annotations

import pytest

from sweeps.config.path_types import check_database
from sweeps.storage.errors import SecretError


@pytest.mark.parametrize(
    "url", ["postgresql://me@host:5432/gmt", "postgresql://host/gmt?sslmode=require"]
)
def test_an_address_is_taken_as_it_is(url: str) -> None:
    assert check_database(url) == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgres://me@host/gmt", "did you mean 'postgresql://me@host/gmt'"),
        ("mysql://me@host/gmt", "expected postgresql://USER@HOST:PORT/NAME"),
        ("optuna.db", "a file in the storage"),
        ("postgresql:///gmt", "with a host"),
        ("postgresql://me@host", "a database name"),
        ("postgresql://me@host:port/gmt", "expected postgresql://USER@HOST:PORT/NAME"),
    ],
)
def test_another_one_is_refused_with_what_was_expected(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_database(url)


@pytest.mark.parametrize(
    "url", ["postgresql://me:swordfish@host/gmt", "postgresql://host/gmt?password=swordfish"]
)
def test_a_password_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SecretError, match="PGPASSWORD") as raised:
        check_database(url)
    assert "swordfish" not in str(raised.value)
