"""Faults of PostgreSQL: what is tried again, and what a client is told of the rest."""

from __future__ import annotations

from typing import Final

import psycopg
import sqlalchemy as sa
from psycopg import errors

from registry.oci.errors import ParameterInvalid, RegistryError, StorageFull, Unavailable

_TRIES_AFTER_CONFLICT: Final = 8
_TRIES_AFTER_DUPLICATE: Final = 3
_TRIES_AFTER_LOSS: Final = 3


def answer_to(error: BaseException) -> RegistryError | None:
    """What a client is told of a fault of the database; None when it is a mistake of ours."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    if isinstance(cause, errors.DiskFull):
        return StorageFull()
    if isinstance(cause, psycopg.DataError) and cause.sqlstate is None:
        return ParameterInvalid("a text has a character that cannot be kept or looked for (NUL)")
    faults = (psycopg.OperationalError, psycopg.InterfaceError, errors.ReadOnlySqlTransaction, OSError)
    return Unavailable() if isinstance(cause, faults) else None


class Again(Exception):
    """A transaction that may be tried up to *tries* times in all; *error* is what is raised after that."""

    def __init__(self, error: BaseException, tries: int, pauses: bool = True) -> None:
        super().__init__(str(error))
        self.error = error
        self.tries = tries
        self.pauses = pauses


def because_of(answer: BaseException, cause: BaseException | None) -> BaseException:
    """*answer* with its cause, unless it is that itself."""
    if answer is not cause:
        answer.__cause__ = cause
    return answer


def is_demoted(error: BaseException) -> bool:
    """Whether the server takes no writes, as after a failover; the next connection may find one that does."""
    return isinstance(getattr(error, "orig", error), errors.ReadOnlySqlTransaction)


def verdict(
    error: sa.exc.DBAPIError | psycopg.Error, lost: bool, committing: bool, reading: bool
) -> BaseException:
    """What is to be raised for a fault of the database."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    if is_demoted(error) and reading:
        return error  # a function that writes was handed to `read`
    if lost:
        return Unavailable() if committing else Again(Unavailable(), _TRIES_AFTER_LOSS, pauses=False)
    if isinstance(cause, (errors.SerializationFailure, errors.DeadlockDetected)):
        return Again(Unavailable(), _TRIES_AFTER_CONFLICT)
    if isinstance(cause, errors.UniqueViolation):
        # Somebody added the same a moment ago: the next try finds it there, and says so or goes on.
        return Again(error, _TRIES_AFTER_DUPLICATE)
    return answer_to(error) or error
