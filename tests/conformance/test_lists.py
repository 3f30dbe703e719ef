"""Listing tags and repositories: order, parts, and pages that skip nothing and repeat nothing."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote, urlencode

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.conftest import PAGE_SIZE, serving
from tests.conftest import MakeServer
from tests.support.oci import blob as new_blob
from tests.support.oci import (
    failure,
    index,
    manifest_path,
    pages,
    push_blob,
    push_image,
    push_manifest,
    put_manifest,
    tags_path,
)

CATALOG = "/v2/_catalog"

TAGS = sorted(
    [
        "0",
        "00",
        "1",
        "10",
        "1.10",
        "1.9",
        "2",
        "A",
        "B",
        "Z",
        "_",
        "_a",
        "a",
        "aA",
        "aa",
        "a-b",
        "a.b",
        "a0b",
        "aBb",
        "a_b",
        "ab",
        "b",
        "latest",
        "LATEST",
        "v1",
        "v1-rc",
        "v1.0",
        "v1_0",
        "v10",
        "z",
    ]
)

REPOSITORIES = sorted(
    [
        "0",
        "a",
        "a-b",
        "a-b/c",
        "a.b",
        "a.b/c",
        "a/b",
        "a/b-c",
        "a/b/c",
        "a0",
        "a_b",
        "a_b/c",
        "a__b",
        "aa",
        "ab",
        "b",
        "team/web",
        "team-web",
        "team.web",
        "team_web",
        "v1",
        "v1-rc",
        "v1/rc",
        "z",
    ]
)

NO_NUMBERS = [
    "-1",
    "-0",
    "abc",
    "1.5",
    "1e3",
    "0x10",
    "+1",
    "1_0",
    " 1",
    "1 ",
    "٣",
    "²",
    "1,2",
    "null",
    "\x00",
    "9a",
]


def after(names: list[str], last: str | None, n: int | None) -> list[str]:
    """What the specification wants of a list that fits in one page."""
    rest = [name for name in names if last is None or name > last]
    return rest if n is None else rest[:n]


def query(**parameters: str | int | None) -> str:
    return urlencode({name: value for name, value in parameters.items() if value is not None})


@pytest.fixture(scope="module")
def tagged(http: httpx.Client) -> str:
    """A repository with all TAGS, pushed in no order."""
    repository = "lists/tagged"
    content = push_manifest(http, repository, index([]))
    for tag in sorted(TAGS, key=lambda tag: tag[::-1]):
        assert put_manifest(http, repository, content, tag).status_code == 201
    return repository


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server that has REPOSITORIES and no others."""
    with serving(tmp_path_factory, "catalogue") as client:
        for name in sorted(REPOSITORIES, key=lambda name: name[::-1]):
            push_manifest(client, name, index([]), "latest")
        yield client


def tags(http: httpx.Client, repository: str, **parameters: str | int | None) -> list[str]:
    response = http.get(tags_path(repository), params=query(**parameters))
    assert response.status_code == 200, response.text
    document = response.json()
    assert set(document) == {"name", "tags"}
    assert document["name"] == repository
    assert isinstance(document["tags"], list)
    return document["tags"]


def repositories(http: httpx.Client, **parameters: str | int | None) -> list[str]:
    response = http.get(CATALOG, params=query(**parameters))
    assert response.status_code == 200, response.text
    document = response.json()
    assert set(document) == {"repositories"}
    assert isinstance(document["repositories"], list)
    return document["repositories"]


class TestTags:
    def test_all_tags_come_in_byte_order(self, http: httpx.Client, tagged: str) -> None:
        assert tags(http, tagged) == TAGS
        response = http.get(tags_path(tagged))
        assert response.headers["Content-Type"].partition(";")[0] == "application/json"
        assert "Link" not in response.headers

    @pytest.mark.parametrize("n", [1, 2, 7, len(TAGS) - 1])
    def test_n_is_the_number_of_tags_and_a_link_leads_on(self, http: httpx.Client, tagged: str, n: int) -> None:
        response = http.get(tags_path(tagged), params={"n": n})
        assert response.json()["tags"] == TAGS[:n]
        link = response.links["next"]
        following = http.get(str(response.url.join(link["url"])))
        assert following.json()["tags"] == TAGS[n : 2 * n]

    @pytest.mark.parametrize("n", [len(TAGS), len(TAGS) + 1, 1000, 10_000, 10**12])
    def test_a_number_that_covers_all_tags_gives_them_and_no_link(
        self, http: httpx.Client, tagged: str, n: int
    ) -> None:
        response = http.get(tags_path(tagged), params={"n": n})
        assert response.json()["tags"] == TAGS
        assert "Link" not in response.headers

    @pytest.mark.parametrize("last", [None, "a", "nonexistent"])
    def test_zero_tags_are_an_empty_list_without_link(
        self, http: httpx.Client, tagged: str, last: str | None
    ) -> None:
        response = http.get(tags_path(tagged), params=query(n=0, last=last))
        assert response.status_code == 200
        assert response.json() == {"name": tagged, "tags": []}
        assert "Link" not in response.headers

    @pytest.mark.parametrize("last", [*TAGS[::4], TAGS[-1]])
    @pytest.mark.parametrize("n", [None, 1, 5, 1000])
    def test_the_list_goes_on_behind_the_last_tag(
        self, http: httpx.Client, tagged: str, last: str, n: int | None
    ) -> None:
        assert tags(http, tagged, last=last, n=n) == after(TAGS, last, n)

    @settings(max_examples=60, deadline=None, database=None)
    @given(
        last=st.text("019AZaz._-v", min_size=1, max_size=5),
        n=st.none() | st.integers(0, len(TAGS) + 3),
    )
    def test_the_last_tag_need_not_exist(self, http: httpx.Client, tagged: str, last: str, n: int | None) -> None:
        assert tags(http, tagged, last=last, n=n) == after(TAGS, last, n)

    @pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 29, 30, 31])
    def test_a_walk_along_the_links_meets_every_tag_exactly_once(
        self, http: httpx.Client, tagged: str, n: int
    ) -> None:
        walked = [page.json()["tags"] for page in pages(http, f"{tags_path(tagged)}?n={n}")]
        assert [tag for page in walked for tag in page] == TAGS
        assert all(len(page) == n for page in walked[:-1])

    @pytest.mark.parametrize("n", [None, 1, 2, PAGE_SIZE, PAGE_SIZE + 1, 10_000, 10**12])
    def test_no_page_is_longer_than_the_server_allows(
        self, paged: httpx.Client, repository: str, n: int | None
    ) -> None:
        content = push_manifest(paged, repository, index([]))
        wanted = ["a", "a-b", "a.b", "a_b", "b", "c", "d", "e"]
        for tag in wanted:
            assert put_manifest(paged, repository, content, tag).status_code == 201
        walked = list(pages(paged, f"{tags_path(repository)}?{query(n=n)}"))
        assert [tag for page in walked for tag in page.json()["tags"]] == wanted
        assert {len(page.json()["tags"]) for page in walked[:-1]} == {min(n or PAGE_SIZE, PAGE_SIZE)}

    def test_links_say_rel_next(self, http: httpx.Client, tagged: str) -> None:
        link = http.get(tags_path(tagged), params={"n": 2}).headers["Link"]
        address, _, relation = link.partition(";")
        assert address.startswith("<")
        assert address.rstrip().endswith(">")
        assert relation.strip() == 'rel="next"'

    def test_a_tag_added_meanwhile_disturbs_no_walk(self, http: httpx.Client, repository: str) -> None:
        content = push_manifest(http, repository, index([]))
        for tag in ("b", "d", "f", "h"):
            put_manifest(http, repository, content, tag)
        walk = pages(http, f"{tags_path(repository)}?n=2")
        assert next(walk).json()["tags"] == ["b", "d"]
        for tag in ("a", "c", "e"):
            put_manifest(http, repository, content, tag)
        assert http.delete(manifest_path(repository, "d")).status_code == 202
        assert [tag for page in walk for tag in page.json()["tags"]] == ["e", "f", "h"]

    @pytest.mark.parametrize("n", NO_NUMBERS)
    def test_a_number_that_is_none_is_refused(self, http: httpx.Client, tagged: str, n: str) -> None:
        response = http.get(tags_path(tagged), params={"n": n})
        assert failure(response)[0] == 400

    @pytest.mark.parametrize("digits", [20, 30, 5000])
    def test_a_number_beyond_all_measure_is_bounded_or_refused(
        self, http: httpx.Client, tagged: str, digits: int
    ) -> None:
        response = http.get(tags_path(tagged), params={"n": "9" * digits})
        if response.status_code == 200:
            assert response.json()["tags"] == TAGS
        else:
            assert failure(response)[0] == 400

    @pytest.mark.parametrize("last", ["%00", "%ff", "..%2F", "%20", quote("ä☃"), "a" * 5000, "%27", "%25", "_%25"])
    def test_a_last_that_is_no_tag_is_no_fault_of_the_server(
        self, http: httpx.Client, tagged: str, last: str
    ) -> None:
        response = http.get(f"{tags_path(tagged)}?last={last}")
        assert response.status_code == 200 or failure(response)[0] in {400, 414}

    def test_a_repository_whose_manifests_have_no_tags_has_an_empty_list(
        self, http: httpx.Client, repository: str
    ) -> None:
        push_image(http, repository)
        assert tags(http, repository) == []

    def test_a_repository_whose_tags_are_deleted_has_an_empty_list(
        self, http: httpx.Client, repository: str
    ) -> None:
        push_image(http, repository, "latest")
        assert http.delete(manifest_path(repository, "latest")).status_code == 202
        assert tags(http, repository) == []

    def test_a_repository_that_has_only_blobs_has_an_empty_list_or_none(
        self, http: httpx.Client, repository: str
    ) -> None:
        push_blob(http, repository, new_blob())
        response = http.get(tags_path(repository))
        if response.status_code == 200:
            assert response.json() == {"name": repository, "tags": []}
        else:
            assert failure(response) == (404, "NAME_UNKNOWN")

    @pytest.mark.parametrize("parameters", [{}, {"n": 0}, {"n": 5, "last": "a"}])
    def test_a_repository_that_never_was_is_unknown(
        self, http: httpx.Client, repository: str, parameters: dict[str, str | int]
    ) -> None:
        response = http.get(tags_path(repository), params=parameters)
        assert failure(response) == (404, "NAME_UNKNOWN")

    def test_a_repository_is_not_known_by_the_names_below_it(self, http: httpx.Client, repository: str) -> None:
        push_image(http, f"{repository}/below", "latest")
        assert failure(http.get(tags_path(repository))) == (404, "NAME_UNKNOWN")

    def test_every_change_is_seen_at_once(self, http: httpx.Client, repository: str) -> None:
        content = push_image(http, repository, "a")
        assert tags(http, repository) == ["a"]
        put_manifest(http, repository, content, "b")
        assert tags(http, repository) == ["a", "b"]
        http.delete(manifest_path(repository, "a"))
        assert tags(http, repository) == ["b"]


class TestCatalogue:
    def test_a_new_registry_has_an_empty_catalogue(self, make_server: MakeServer) -> None:
        with httpx.Client(base_url=make_server().url, timeout=30, trust_env=False) as client:
            response = client.get(CATALOG)
        assert response.status_code == 200
        assert response.json() == {"repositories": []}
        assert "Link" not in response.headers

    def test_all_repositories_come_in_byte_order(self, filled: httpx.Client) -> None:
        assert repositories(filled) == REPOSITORIES
        assert filled.get(CATALOG).headers["Content-Type"].partition(";")[0] == "application/json"

    @pytest.mark.parametrize("n", [1, 2, 3, 5, 23, 24, 25])
    def test_a_walk_along_the_links_meets_every_repository_exactly_once(
        self, filled: httpx.Client, n: int
    ) -> None:
        walked = [page.json()["repositories"] for page in pages(filled, f"{CATALOG}?n={n}")]
        assert [name for page in walked for name in page] == REPOSITORIES
        assert all(len(page) == n for page in walked[:-1])

    @pytest.mark.parametrize("last", REPOSITORIES)
    @pytest.mark.parametrize("n", [None, 2])
    def test_the_list_goes_on_behind_the_last_repository(
        self, filled: httpx.Client, last: str, n: int | None
    ) -> None:
        assert repositories(filled, last=last, n=n) == after(REPOSITORIES, last, n)

    @settings(max_examples=60, deadline=None, database=None)
    @given(last=st.text("0abz/._-", min_size=1, max_size=5), n=st.none() | st.integers(0, 30))
    def test_the_last_repository_need_not_exist(self, filled: httpx.Client, last: str, n: int | None) -> None:
        assert repositories(filled, last=last, n=n) == after(REPOSITORIES, last, n)

    def test_zero_repositories_are_an_empty_list_without_link(self, filled: httpx.Client) -> None:
        response = filled.get(CATALOG, params={"n": 0})
        assert response.json() == {"repositories": []}
        assert "Link" not in response.headers

    @pytest.mark.parametrize("n", [24, 1000, 10_000, 10**12])
    def test_a_number_that_covers_all_gives_them_and_no_link(self, filled: httpx.Client, n: int) -> None:
        response = filled.get(CATALOG, params={"n": n})
        assert response.json()["repositories"] == REPOSITORIES
        assert "Link" not in response.headers

    @pytest.mark.parametrize("n", [None, 1, PAGE_SIZE, 10_000, 10**12])
    def test_no_page_is_longer_than_the_server_allows(
        self, paged: httpx.Client, repository: str, n: int | None
    ) -> None:
        pushed = {f"{repository}/{each}" for each in "abcde"}
        for name in pushed:
            push_manifest(paged, name, index([]), "latest")
        walked = [page.json()["repositories"] for page in pages(paged, f"{CATALOG}?{query(n=n)}")]
        names = [name for page in walked for name in page]
        assert {len(page) for page in walked[:-1]} == {min(n or PAGE_SIZE, PAGE_SIZE)}
        assert names == sorted(set(names))
        assert pushed <= set(names)

    @pytest.mark.parametrize("n", NO_NUMBERS)
    def test_a_number_that_is_none_is_refused(self, filled: httpx.Client, n: str) -> None:
        assert failure(filled.get(CATALOG, params={"n": n}))[0] == 400

    @pytest.mark.parametrize("last", ["%00", "%ff", "..%2F", "Upper", "a" * 5000, "%27", "%25", "a%25"])
    def test_a_last_that_is_no_name_is_no_fault_of_the_server(self, filled: httpx.Client, last: str) -> None:
        response = filled.get(f"{CATALOG}?last={last}")
        assert response.status_code == 200 or failure(response)[0] in {400, 414}
