"""Errors: each has its code, and the envelope is the specification's."""

from __future__ import annotations

import inspect
import json
import re

import pytest

from registry.oci import errors
from registry.oci.errors import HytheError, RegistryError

DIGEST = "sha256:" + "0" * 64

EXAMPLES: list[tuple[RegistryError, str]] = [
    (errors.BlobUnknown(DIGEST), "BLOB_UNKNOWN"),
    (errors.BlobUploadUnknown("id"), "BLOB_UPLOAD_UNKNOWN"),
    (errors.BlobUploadInvalid("no"), "BLOB_UPLOAD_INVALID"),
    (errors.UploadBusy(), "BLOB_UPLOAD_INVALID"),
    (errors.ChunkOutOfOrder(5, "id", 3), "BLOB_UPLOAD_INVALID"),
    (errors.ManifestUnknown("latest"), "MANIFEST_UNKNOWN"),
    (errors.ManifestInvalid("no"), "MANIFEST_INVALID"),
    (errors.ManifestTooLarge(5), "SIZE_INVALID"),
    (errors.BlobTooLarge(5), "SIZE_INVALID"),
    (errors.ManifestBlobUnknown([DIGEST]), "MANIFEST_BLOB_UNKNOWN"),
    (errors.NameInvalid("no"), "NAME_INVALID"),
    (errors.NameUnknown("a/b"), "NAME_UNKNOWN"),
    (errors.TagInvalid("-"), "MANIFEST_INVALID"),
    (errors.DigestInvalid("no"), "DIGEST_INVALID"),
    (errors.SizeInvalid("no"), "SIZE_INVALID"),
    (errors.ParameterInvalid("no"), "UNSUPPORTED"),
    (errors.Unauthorized("no"), "UNAUTHORIZED"),
    (errors.Denied("no"), "DENIED"),
    (errors.Unsupported("no"), "UNSUPPORTED"),
    (errors.TooManyRequests("slowly", 3), "TOOMANYREQUESTS"),
    (errors.StorageFull(), "STORAGE_FULL"),
    (errors.Unavailable(), "UNAVAILABLE"),
    (errors.ContentMissing(DIGEST), "UNKNOWN"),
]


@pytest.mark.parametrize(("error", "code"), EXAMPLES, ids=[type(error).__name__ for error, _ in EXAMPLES])
class TestEachError:
    def test_its_entry_has_the_code_a_sentence_and_perhaps_a_detail(self, error: RegistryError, code: str) -> None:
        entry = error.entry()
        assert entry["code"] == code
        assert entry["message"] == str(error)
        assert str(error)
        assert set(entry) - {"detail"} == {"code", "message"}
        assert ("detail" in entry) is (error.detail is not None)

    def test_its_entry_is_json(self, error: RegistryError, code: str) -> None:
        entry = error.entry()
        assert json.loads(json.dumps(entry)) == entry

    def test_it_is_one_of_those_that_are_raised_on_purpose(self, error: RegistryError, code: str) -> None:
        assert isinstance(error, HytheError)


def test_every_kind_of_error_has_a_code_as_the_specification_writes_them_and_says_what_it_means() -> None:
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, RegistryError):
            assert re.fullmatch("[A-Z]+(_[A-Z]+)*", kind.code), kind
            assert kind.__doc__, kind


def test_details_say_what_a_program_can_go_on_with() -> None:
    assert errors.ChunkOutOfOrder(5, "id", 3).entry()["detail"] == {"offset": 3}
    assert errors.TooManyRequests("slowly", 3).retry_after_seconds == 3
    assert errors.Unavailable().retry_after_seconds > 0
    assert errors.ManifestBlobUnknown([DIGEST, "b"]).digests == (DIGEST, "b")
    assert errors.BlobUnknown(DIGEST).entry()["detail"] == {"digest": DIGEST}


def test_an_error_without_a_detail_has_none_in_its_entry() -> None:
    assert RegistryError("a sentence").entry() == {"code": "UNKNOWN", "message": "a sentence"}
    assert RegistryError("a sentence", {}).entry()["detail"] == {}
