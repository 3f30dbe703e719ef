"""Digests: their grammar, and hashers that stop in one process and go on in another."""

from __future__ import annotations

import contextlib
import hashlib
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registry.oci.digest import ALGORITHMS, Digest, Hasher, is_digest
from registry.oci.errors import DigestInvalid

EMPTY_256 = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
EMPTY_512 = (
    "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce"
    "47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
)
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)

STATE_BYTES = {"sha256": 114, "sha512": 218}
BLOCK_BYTES = {"sha256": 64, "sha512": 128}


class TestGrammar:
    @pytest.mark.parametrize("text", [EMPTY_256, EMPTY_512, "sha256:" + "0" * 64, "sha512:" + "f" * 128])
    def test_a_digest_of_a_supported_algorithm_is_equal_to_its_text(self, text: str) -> None:
        digest = Digest.parse(text)
        assert digest == text
        assert f"{digest.algorithm}:{digest.encoded}" == text
        assert hash(digest) == hash(text)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            ":",
            "sha256",
            "sha256:",
            ":" + "0" * 64,
            "0" * 64,
            "sha256:" + "0" * 63,
            "sha256:" + "0" * 65,
            "sha512:" + "0" * 127,
            "sha512:" + "0" * 129,
            "sha256:" + "0" * 128,
            "sha512:" + "0" * 64,
            "sha256:" + "A" * 64,
            "sha256:" + "g" * 64,
            "SHA256:" + "0" * 64,
            " sha256:" + "0" * 64,
            "sha256:" + "0" * 64 + " ",
            "sha256:" + "0" * 64 + "\n",
            "sha256: " + "0" * 63,
            "sha256::" + "0" * 63,
            "sha256:" + "0" * 32 + "/" + "0" * 31,
            "sha256:" + "../" * 21 + "0",
            "sha256:" + "\u0660" * 64,
            "sha256:" + "\uff10" * 64,
            "sha256:" + "0" * 63 + "\0",
            "sha256+:" + "0" * 64,
            "+sha256:" + "0" * 64,
            "sha256:" + "0" * 100_000,
            "a" * 100_000,
            "a+" * 50_000 + ":0",
        ],
    )
    def test_a_text_outside_of_the_grammar_is_refused(self, text: str) -> None:
        with pytest.raises(DigestInvalid, match="not a digest"):
            Digest.parse(text)

    @pytest.mark.parametrize(
        "text", ["md5:" + "0" * 32, "sha384:" + "0" * 96, "a+b.c_d-e:x=_-Z", "sha1:" + "0" * 40]
    )
    def test_an_algorithm_that_is_not_supported_is_named_with_those_that_are(self, text: str) -> None:
        with pytest.raises(DigestInvalid) as raised:
            Digest.parse(text)
        assert all(name in str(raised.value) for name in (text.partition(":")[0], *ALGORITHMS))

    def test_a_refusal_repeats_only_the_beginning_of_a_long_text(self) -> None:
        with pytest.raises(DigestInvalid) as raised:
            Digest.parse("sha256:" + "0" * 1_000_000)
        assert len(str(raised.value.entry())) < 1000

    @given(st.text())
    def test_any_text_is_a_digest_or_refused(self, text: str) -> None:
        with contextlib.suppress(DigestInvalid):
            assert Digest.parse(text) == text

    @pytest.mark.parametrize(
        ("text", "meant"), [(EMPTY_256, True), ("md5:x", True), ("latest", False), ("", False)]
    )
    def test_a_colon_tells_a_digest_from_a_tag(self, text: str, meant: bool) -> None:
        assert is_digest(text) is meant

    def test_the_digest_of_bytes_is_the_known_one(self) -> None:
        assert Digest.of(b"") == EMPTY_256
        assert Digest.of(b"", "sha512") == EMPTY_512
        assert Digest.of(memoryview(b"")) == EMPTY_256


def splits(size_max: int = 600) -> st.SearchStrategy[list[tuple[bytes, bool]]]:
    """Pieces, each with whether the hasher is put away and taken up again after it."""
    return st.lists(st.tuples(st.binary(max_size=size_max), st.booleans()), max_size=12)


class TestHasher:
    @every_algorithm
    @given(pieces=splits())
    @example(pieces=[(b"a" * 64, True), (b"b" * 64, True)])
    @example(pieces=[(b"a" * 128, True), (b"", True), (b"b" * 127, True), (b"c", True)])
    def test_pieces_in_any_split_with_any_pauses_have_the_digest_of_the_whole(
        self, algorithm: str, pieces: list[tuple[bytes, bool]]
    ) -> None:
        hasher, reference = Hasher(algorithm), hashlib.new(algorithm)
        for piece, pause in pieces:
            hasher.update(piece)
            reference.update(piece)
            if pause:
                hasher = Hasher.resume(hasher.state())
        assert hasher.digest() == f"{algorithm}:{reference.hexdigest()}"
        assert hasher.algorithm == algorithm

    @every_algorithm
    def test_every_length_around_a_block_can_be_put_away_and_gone_on_with(self, algorithm: str) -> None:
        for length in range(3 * BLOCK_BYTES[algorithm] + 2):
            hasher = Hasher(algorithm)
            hasher.update(b"x" * length)
            resumed = Hasher.resume(hasher.state())
            resumed.update(b"y" * 100)
            assert resumed.digest() == Digest.of(b"x" * length + b"y" * 100, algorithm)

    @every_algorithm
    def test_a_digest_on_the_way_changes_nothing_of_what_follows(self, algorithm: str) -> None:
        hasher = Hasher(algorithm)
        for length, piece in enumerate([b"a", b"b" * 200, b"c" * 63], 1):
            hasher.update(piece)
            before = hasher.state()
            assert hasher.digest() == hasher.digest()
            assert hasher.state() == before, length
        assert hasher.digest() == Digest.of(b"a" + b"b" * 200 + b"c" * 63, algorithm)

    @every_algorithm
    def test_two_that_go_on_from_one_state_do_not_disturb_each_other(self, algorithm: str) -> None:
        hasher = Hasher(algorithm)
        hasher.update(b"common ")
        state = hasher.state()
        one, other = Hasher.resume(state), Hasher.resume(state)
        one.update(b"one")
        other.update(b"other")
        assert one.digest() == Digest.of(b"common one", algorithm)
        assert other.digest() == Digest.of(b"common other", algorithm)
        assert hasher.digest() == Digest.of(b"common ", algorithm)

    @every_algorithm
    def test_a_state_has_the_length_that_is_promised(self, algorithm: str) -> None:
        hasher = Hasher(algorithm)
        hasher.update(b"x" * 1000)
        assert len(hasher.state()) == STATE_BYTES[algorithm]

    @every_algorithm
    def test_a_piece_of_many_megabytes_is_taken_at_once(self, algorithm: str) -> None:
        data = bytes(range(256)) * (1 << 16)
        hasher = Hasher(algorithm)
        hasher.update(data)
        assert Hasher.resume(hasher.state()).digest() == Digest.of(data, algorithm)

    @pytest.mark.parametrize("algorithm", ["md5", "", "SHA256", "sha1", "x" * 10_000])
    def test_another_algorithm_is_refused(self, algorithm: str) -> None:
        with pytest.raises(DigestInvalid) as raised:
            Hasher(algorithm)
        assert len(str(raised.value)) < 200


def state(algorithm: str, data: bytes) -> bytes:
    hasher = Hasher(algorithm)
    hasher.update(data)
    return hasher.state()


class TestDamagedStates:
    @every_algorithm
    def test_a_state_of_another_length_is_refused(self, algorithm: str) -> None:
        sound = state(algorithm, b"x" * 70)
        for length in range(len(sound)):
            with pytest.raises(ValueError, match="hash state"):
                Hasher.resume(sound[:length])
        for more in (b"\0", sound):
            with pytest.raises(ValueError, match="hash state"):
                Hasher.resume(sound + more)

    @every_algorithm
    def test_a_state_of_an_unknown_version_or_algorithm_is_refused(self, algorithm: str) -> None:
        sound = state(algorithm, b"x")
        for version in set(range(256)) - {sound[0]}:
            with pytest.raises(ValueError, match="unknown version"):
                Hasher.resume(bytes([version]) + sound[1:])
        for number in set(range(256)) - {1, 2}:
            with pytest.raises(ValueError, match="unknown version"):
                Hasher.resume(sound[:1] + bytes([number]) + sound[2:])

    @every_algorithm
    def test_a_state_that_says_it_is_of_the_other_algorithm_is_refused(self, algorithm: str) -> None:
        sound = state(algorithm, b"x")
        with pytest.raises(ValueError, match="damaged"):
            Hasher.resume(sound[:1] + bytes([3 - sound[1]]) + sound[2:])

    @every_algorithm
    @pytest.mark.parametrize("value", [0, 1, 28, 31, 33, 48, 65, 127, 128, 255, 2**31, 2**32 - 1])
    @pytest.mark.parametrize("place", ["pending", "length"])
    def test_a_number_that_libcrypto_would_trust_is_checked(self, algorithm: str, place: str, value: int) -> None:
        sound = state(algorithm, b"x" * 70)
        at = len(sound) - (8 if place == "pending" else 4)
        damaged = sound[:at] + value.to_bytes(4, sys.byteorder) + sound[at + 4 :]
        with pytest.raises(ValueError, match="damaged"):
            Hasher.resume(damaged)

    @every_algorithm
    def test_a_count_of_bytes_that_does_not_fit_the_open_block_is_refused(self, algorithm: str) -> None:
        sound = state(algorithm, b"x" * 70)
        at = 2 + (32 if algorithm == "sha256" else 64)
        assert int.from_bytes(sound[at : at + 4], sys.byteorder) == 70 * 8
        with pytest.raises(ValueError, match="damaged"):
            Hasher.resume(sound[:at] + (71 * 8).to_bytes(4, sys.byteorder) + sound[at + 4 :])

    @given(st.binary(max_size=230))
    def test_any_bytes_are_a_state_or_refused(self, data: bytes) -> None:
        with contextlib.suppress(ValueError):
            Hasher.resume(data).digest()

    @every_algorithm
    @given(data=st.data())
    def test_a_damaged_state_is_refused_or_gives_a_digest_of_the_right_form(
        self, algorithm: str, data: st.DataObject
    ) -> None:
        damaged = bytearray(state(algorithm, data.draw(st.binary(max_size=300))))
        for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=4)):
            damaged[place] ^= data.draw(st.integers(1, 255))
        try:
            hasher = Hasher.resume(bytes(damaged))
        except ValueError:
            return
        hasher.update(b"y" * 1000)
        digest = hasher.digest()
        assert Digest.parse(digest) == digest
        assert not digest.encoded.endswith("0" * 16)
