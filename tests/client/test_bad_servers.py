"""`hythe pull` from servers that cut, lie, dawdle or refuse: right bytes in the end, or one line that says why."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.client.conftest import needs_root
from tests.support import images
from tests.support.accounts import registry_with_accounts
from tests.support.faulty import Answer, Asked, Faulty, Script
from tests.support.hythe import Hythe
from tests.support.server import Server
from tests.support.tars import archive, f

pytestmark = needs_root

NOISE = os.urandom(400_000)
MADE = images.make_image([archive([f("noise", NOISE)]), archive([f("small", b"two")])])
LAYER = MADE.layers[0]
Change = Callable[[Asked, Answer], Answer]


def registry(change: Change, made: images.Image = MADE) -> Faulty:
    """A registry of one image, whose answers about its first layer go through *change*."""
    return Faulty(script_of(change, made))


def sound_script() -> Script:
    """That of a registry without a fault."""
    return script_of(lambda asked, answer: answer, MADE)


def script_of(change: Change, made: images.Image) -> Script:
    """What a registry of one image answers."""
    contents = {blob.digest: blob for blob in (*made.blobs, made.manifest)}

    def script(asked: Asked) -> Answer:
        blob = contents.get(asked.path.rpartition("/")[2]) or (
            made.manifest if "/manifests/" in asked.path else None
        )
        if blob is None:
            return Answer(200 if asked.path == "/v2/" else 404)
        kind = blob.media_type if "/manifests/" in asked.path else "application/octet-stream"
        headers = {"Content-Type": kind, "Docker-Content-Digest": blob.digest}
        found = ranged(asked, Answer(200, headers, blob.data))
        return change(asked, found) if blob.digest == made.layers[0].digest else found

    return script


def ranged(asked: Asked, answer: Answer) -> Answer:
    """The part that was asked for."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("range", ""))
    if match is None:
        return answer
    first, last = int(match[1]), min(int(match[2] or len(answer.body)), len(answer.body) - 1)
    more = {"Content-Range": f"bytes {first}-{last}/{len(answer.body)}"}
    return replace(answer, status=206, headers=answer.headers | more, body=answer.body[first : last + 1])


def is_pulled(hythe: Hythe, server: Faulty) -> None:
    hythe("pull", f"{server.host}/app:v1")
    assert hythe("images", "-q", "--no-trunc").strip() == MADE.config.digest
    [layer] = [path for path in (hythe.root / "layers").iterdir() if (path / "noise").exists()]
    assert (layer / "noise").read_bytes() == NOISE


def is_refused(hythe: Hythe, server: Faulty) -> str:
    """One line that says why, and nothing of the image is visible."""
    said = hythe.refused("pull", "-q", f"{server.host}/app:v1")
    assert re.fullmatch(r"hythe: [^\n]+\n", said), said
    assert hythe("images", "-aq") == ""
    assert list((hythe.root / "staging").iterdir()) == []
    return said


class TestAPullFromABadServer:
    """Each over HTTP, by the command line."""

    def test_goes_on_where_a_connection_was_cut(self, hythe: Hythe) -> None:
        server = registry(lambda asked, answer: replace(answer, cut_at=150_000))
        is_pulled(hythe, server)
        starts = [asked.headers.get("range", "") for asked in server.requests(part=LAYER.digest)]
        assert starts[1].startswith("bytes=150000-")
        server.close()

    def test_starts_again_where_ranges_are_ignored(self, hythe: Hythe) -> None:
        def change(asked: Asked, answer: Answer) -> Answer:
            whole = Answer(200, answer.headers, LAYER.data)
            return replace(whole, cut_at=150_000) if len(server.requests(part=LAYER.digest)) == 1 else whole

        server = registry(change)
        is_pulled(hythe, server)
        server.close()

    def test_goes_on_with_the_next_command_where_it_was_given_up(self, hythe: Hythe) -> None:
        def change(asked: Asked, answer: Answer) -> Answer:
            return replace(answer, cut_at=100_000) if not asked.headers.get("range") else Answer(416)

        server = registry(change)
        is_refused(hythe, server)
        assert [path.stat().st_size for path in (hythe.root / "ingest").iterdir()] == [100_000]
        sound = registry(lambda asked, answer: answer)
        is_pulled(hythe, sound)
        assert sound.requests(part=LAYER.digest)[0].headers["range"].startswith("bytes=100000-")
        server.close()
        sound.close()

    def test_refuses_wrong_bytes(self, hythe: Hythe) -> None:
        wrong = bytearray(LAYER.data)
        wrong[200_000] ^= 1
        server = registry(lambda asked, answer: replace(answer, body=bytes(wrong)))
        said = is_refused(hythe, server)
        assert "damaged" in said or LAYER.digest in said
        server.script = sound_script()
        is_pulled(hythe, server)
        server.close()

    def test_refuses_another_layer_in_the_place_of_one(self, hythe: Hythe) -> None:
        other = MADE.layers[1].data
        server = registry(lambda asked, answer: replace(answer, body=other))
        assert LAYER.digest in is_refused(hythe, server)
        server.close()

    def test_refuses_too_many_bytes(self, hythe: Hythe) -> None:
        server = registry(lambda asked, answer: replace(answer, body=LAYER.data + b"more"))
        assert "bytes" in is_refused(hythe, server)
        server.close()

    def test_waits_for_a_slow_server(self, hythe: Hythe) -> None:
        server = registry(lambda asked, answer: replace(answer, pause_seconds=0.05))
        is_pulled(hythe, server)
        server.close()

    def test_says_what_a_server_says_that_refuses(self, hythe: Hythe) -> None:
        body = b'{"errors":[{"code":"DENIED","message":"not for you"}]}'
        server = registry(lambda asked, answer: Answer(403, {}, body))
        assert "not for you" in is_refused(hythe, server)
        server.close()

    def test_refuses_a_configuration_of_other_layers(self, hythe: Hythe) -> None:
        lying = images.make_image([archive([f("noise", NOISE)])])
        document = json.loads(lying.manifest.data)
        document["config"] = MADE.config.descriptor()
        manifest = images.Blob(lying.manifest.media_type, json.dumps(document).encode())
        made = images.Image(manifest, MADE.config, lying.layers, lying.tars)
        server = registry(lambda asked, answer: answer, made)
        assert "1 layers, its configuration 2" in is_refused(hythe, server)
        server.close()


# --- what stands in the way


def test_with_accounts_who_may_not_is_told_how_to_log_in_and_then_may(hythe: Hythe, tmp_path: Path) -> None:
    server = Server(tmp_path / "server", {"accounts": {"anonymous_pull": ["public/*"]}})
    with registry_with_accounts(server) as guarded:
        team, public = f"{server.host}/team/web:v1", f"{server.host}/public/none:v1"
        assert f"hythe login {server.host}" in hythe.refused("pull", "-q", team)
        assert "not found" in hythe.refused("pull", "-q", public)
        hythe("load", "-i", images.write_docker_archive(tmp_path / "in.tar", {team: MADE}))
        assert f"hythe login {server.host}" in hythe.refused("push", team)
        name, token = guarded.robot("builder")
        guarded.grant(name, "pull,push", "team/*")
        assert "Login Succeeded" in hythe.fed(token.encode(), "login", "-u", name, "--password-stdin", server.host)
        assert "v1: digest: sha256:" in hythe("push", team)
        hythe("rmi", team)
        hythe("pull", team)
        assert hythe("tags", f"{server.host}/team/web") == "v1\n"
        assert "team/web" in hythe("search", f"{server.host}/web")
        assert "not found" in hythe.refused("pull", "-q", f"{server.host}/team/web:v2")
        denied = hythe.refused("pull", "-q", f"{server.host}/other/web:v1")
        assert f"{name} may not do this, or it does not exist" in denied
        hythe("logout", server.host)
        assert f"hythe login {server.host}" in hythe.refused("pull", "-q", team)


def test_nobody_there_and_http_in_the_place_of_https_are_said_with_what_to_do(hythe: Hythe) -> None:
    assert "does the registry run" in hythe.refused("pull", "-q", "127.0.0.1:9/app")
    assert "check the name" in hythe.refused("pull", "-q", "registry.invalid/app")
    server = registry(lambda asked, answer: answer)
    settings = hythe.directory / "etc" / "containerd" / "certs.d" / server.host
    settings.mkdir(parents=True)
    (settings / "hosts.toml").write_text(f'server = "https://{server.host}"\n')
    said = is_refused(hythe, server)
    assert "server gave HTTP response to HTTPS client" in said
    assert "insecure_registries" in said
    server.close()


def test_a_store_without_room_says_so_and_a_later_pull_goes_on(hythe: Hythe, tmp_path: Path) -> None:
    server = registry(lambda asked, answer: answer)
    hythe.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(hythe.root)], check=True)
    try:
        assert "hythe image prune" in is_refused(hythe, server)
        subprocess.run(["mount", "-o", "remount,size=4m", str(hythe.root)], check=True)
        is_pulled(hythe, server)
    finally:
        subprocess.run(["umount", str(hythe.root)], check=True)
        server.close()
