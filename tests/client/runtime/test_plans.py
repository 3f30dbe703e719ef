"""What is computed before anything is done: users, options, the engine's configuration. No container runs."""

from __future__ import annotations

import json

import pytest

from registry.cli.flags import BOOL, INT, LIST, TEXT, Flag, Stop, Words
from registry.client.runtime import (
    bundle,
    durations,
    limits,
    logs,
    names,
    netavark,
    networks,
    parse,
    parse_mounts,
    parse_ports,
    relay,
    seccomp,
    spec,
)
from registry.client.runtime.bundle import Facts
from registry.client.runtime.errors import ContainerConflict, ContainerError, OptionInvalid
from registry.client.runtime.spec import Mount, Port, Spec
from registry.client.runtime.users import User, resolve

PASSWD = "root:x:0:0:root:/root:/bin/sh\n\nbroken\nweb:x:1000:1001::/home/web:\nodd:x:99999999999:1::/:\n"
GROUP = "root:x:0:\nweb:x:1001:\nwheel:x:10:root,web\nextra:x:20:web\n"
FACTS = Facts("c" * 64, "/r", "/f", "x86_64")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("", User(0, 0, (10,), "/root", "root")),
        ("web", User(1000, 1001, (10, 20), "/home/web", "web")),
        ("1000", User(1000, 1001, (10, 20), "/home/web", "web")),
        ("web:wheel", User(1000, 10, (), "/home/web", "web")),
        ("4000", User(4000, 0, (), "/", "")),
        ("4000:4001", User(4000, 4001, (), "/", "")),
        ("web:77", User(1000, 77, (), "/home/web", "web")),
    ],
)
def test_users_are_found_as_docker_finds_them(wanted: str, found: User) -> None:
    assert resolve(wanted, PASSWD, GROUP) == found


@pytest.mark.parametrize("wanted", ["nobody", "odd", "web:nogroup", "-1", "99999999999"])
def test_a_user_that_is_not_there_is_refused(wanted: str) -> None:
    with pytest.raises(ContainerError, match="unable to find"):
        resolve(wanted, PASSWD, GROUP)


def test_without_a_passwd_root_is_root() -> None:
    assert resolve("", "", "") == User(0, 0, (), "/", "")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("80", [Port(80)]),
        ("8080:80", [Port(80, "tcp", "", 8080)]),
        ("8080:80/udp", [Port(80, "udp", "", 8080)]),
        ("127.0.0.1:8080:80", [Port(80, "tcp", "127.0.0.1", 8080)]),
        ("127.0.0.1::80", [Port(80, "tcp", "127.0.0.1", 0)]),
        ("[::1]:8080:80", [Port(80, "tcp", "::1", 8080)]),
        ("8000-8001:80-81", [Port(80, "tcp", "", 8000), Port(81, "tcp", "", 8001)]),
        ("80-81", [Port(80), Port(81)]),
    ],
)
def test_ports_in_all_forms(text: str, found: list[Port]) -> None:
    assert list(parse_ports.port(text)) == found


@pytest.mark.parametrize(
    "text", ["", "x", "80:", "0", "65536", "80/xyz", "1:2:3:4", "nohost:80:80", "1-3:1-2", "9-8"]
)
def test_ports_in_no_form(text: str) -> None:
    with pytest.raises(OptionInvalid):
        parse_ports.port(text)


@pytest.mark.parametrize("text", ["", ":/a", "a:", "/a:b", "/a:/b:nonsense", "a/b:/c", "/a:/", "/a:/b:ro:x"])
def test_volumes_in_no_form(text: str) -> None:
    with pytest.raises(OptionInvalid):
        parse_mounts.volume(text)


def test_mounts_are_read_and_cleaned() -> None:
    assert parse_mounts.volume("/a:/b/../c/:ro,z") == Mount("bind", "/c", "/a", True, (), make_source=True)
    assert parse_mounts.volume("/only") == Mount("volume", "/only", make_source=True)
    assert parse_mounts.mount("type=bind,src=/a,dst=/b,ro") == Mount("bind", "/b", "/a", True)
    assert parse_mounts.tmpfs("/run:size=64m,exec") == Mount("tmpfs", "/run", options=("size=64m", "exec"))
    for text in (
        "type=bind,target=/b",
        "type=nothing,target=/a",
        "source=a",
        "type=bind,src=/a,dst=/b,colour=red",
    ):
        with pytest.raises(OptionInvalid):
            parse_mounts.mount(text)


def test_sizes_signals_limits_and_policies() -> None:
    assert [parse.size(text) for text in ("1k", "64m", "1.5g", "10", "-1", "2GiB")] == [
        1024,
        64 << 20,
        3 << 29,
        10,
        -1,
        2 << 30,
    ]
    assert [parse.signal_number(text) for text in ("KILL", "SIGTERM", "15", "sigint", "RTMIN+3")] == [
        9,
        15,
        15,
        2,
        37,
    ]
    assert parse.restart("on-failure:3") == ("on-failure", 3)
    assert parse.ulimit("nofile=1:2") == spec.Ulimit("nofile", 1, 2)
    for wrong in (
        lambda: parse.size("1x"),
        lambda: parse.signal_number("NOPE"),
        lambda: parse.restart("always:3"),
        lambda: parse.ulimit("files=1"),
        lambda: parse.ulimit("nofile=3:2"),
        lambda: parse.cpus("many"),
        lambda: parse.host("a:b"),
        lambda: parse_mounts.device("fuse"),
    ):
        with pytest.raises(OptionInvalid):
            wrong()
    with pytest.raises(ContainerConflict):
        parse.name("-a")


def test_durations_are_gos() -> None:
    for text, nanoseconds, shown in (
        ("1m30s", 90 * 10**9, "1m30s"),
        ("1.5h", 5400 * 10**9, "1h30m0s"),
        ("500ms", 5 * 10**8, "500ms"),
        ("1.25s", 125 * 10**7, "1.25s"),
        ("0", 0, "0s"),
        ("-2us", -2000, "-2µs"),
    ):
        assert (durations.parse(text), durations.shown(nanoseconds)) == (nanoseconds, shown)
    for wrong in ("", "5", "1x", "1m x", "s"):
        with pytest.raises(ValueError, match="invalid duration"):
            durations.parse(wrong)


def test_a_specification_is_the_same_after_it_was_kept() -> None:
    made = Spec(
        "busybox",
        ("a",),
        ("b", "c"),
        mounts=(Mount("tmpfs", "/t", options=("size=1",)),),
        ports=(Port(80),),
        ulimits=(spec.Ulimit("nofile", 1, 2),),
        labels={"a": "b"},
        memory=5,
        tty=True,
        devices=(spec.Device("/a", "/b"),),
        others=(spec.Joined("net", ("alias",)),),
        health=spec.Health(("CMD", "true"), retries=2),
    )
    assert spec.from_json(made.to_json()) == made
    assert json.loads(Spec("x").to_json()) == {"image": "x"}


def test_the_plan_is_dockers_default_or_tighter() -> None:
    document = bundle.configuration(Spec("x", command=("true",)), User(), "/", FACTS)
    process, linux = document["process"], document["linux"]
    assert set(process["capabilities"]["bounding"]) == set(limits.DEFAULT_CAPABILITIES)
    assert "inheritable" not in process["capabilities"]
    assert "ambient" not in process["capabilities"]
    assert {each["type"] for each in linux["namespaces"]} == {"mount", "network", "uts", "pid", "ipc", "cgroup"}
    assert {"/proc/kcore", "/proc/keys", "/sys/firmware"} <= set(linux["maskedPaths"])
    assert "/proc/sys" in linux["readonlyPaths"]
    assert linux["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert linux["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    by_target = {each["destination"]: each for each in document["mounts"]}
    assert "ro" in by_target["/sys"]["options"]
    assert "ro" in by_target["/sys/fs/cgroup"]["options"]


def test_seccomp_gives_what_a_capability_gives_and_no_more() -> None:
    def allowed(*capabilities: str) -> set[str]:
        rules = seccomp.profile(capabilities, "x86_64")["syscalls"]
        return {
            name
            for rule in rules
            if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule
            for name in rule["names"]
        }

    plain = allowed(*limits.DEFAULT_CAPABILITIES)
    never = {
        "mount",
        "bpf",
        "init_module",
        "kexec_load",
        "keyctl",
        "add_key",
        "io_uring_setup",
        "userfaultfd",
        "open_by_handle_at",
        "perf_event_open",
        "reboot",
        "setns",
        "unshare",
        "swapon",
        "pivot_root",
    }
    assert not never & plain
    assert {"execve", "openat2", "clone3"} & plain == {"execve", "openat2"}
    assert {"mount", "setns", "unshare", "clone3"} <= allowed("CAP_SYS_ADMIN")
    assert "kexec_load" not in allowed(*limits.ALL_CAPABILITIES)


def test_of_a_names_values_the_last_counts() -> None:
    made = Spec("x", env=("PATH=/image", "A=1", "A=2"), tty=True)
    assert bundle.environment(made, User(home="/h"), "c" * 64) == [
        "PATH=/image",
        "HOSTNAME=cccccccccccc",
        "TERM=xterm",
        "A=2",
        "HOME=/h",
    ]


def test_keys_names_and_log_lines() -> None:
    assert relay.keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert relay.keys("a,ctrl-@") == b"a\x00"
    with pytest.raises(OptionInvalid):
        relay.keys("ctrl-p,nonsense")
    assert parse.name(names.make())
    assert logs.parse(b"2024-01-01T00:00:00.0+00:00 stdout F words \n") == logs.Line(
        "2024-01-01T00:00:00.0+00:00", "stdout", b"words \n"
    )
    assert logs.parse(b"2024-01-01T00:00:00.0+00:00 stdout P par\n") == logs.Line(
        "2024-01-01T00:00:00.0+00:00", "stdout", b"par"
    )
    assert logs.parse(b"cut by a cra") is None


def test_subnets_and_addresses_are_those_that_nobody_has() -> None:
    import ipaddress

    taken = [ipaddress.ip_network(text) for text in ("10.90.0.0/23", "192.168.0.0/16")]
    assert str(networks.free_subnet(taken)) == "10.90.2.0/24"
    network = netavark.Network("n", "i", 0, "hy", "10.0.0.0/29", "10.0.0.1")
    assert networks.free_address(network, {"10.0.0.2"}, "") == "10.0.0.3"
    assert networks.free_address(network, set(), "10.0.0.5") == "10.0.0.5"
    for wanted, used in (
        ("10.0.0.1", set()),
        ("10.0.0.5", {"10.0.0.5"}),
        ("10.1.0.1", set()),
        ("", {f"10.0.0.{n}" for n in range(2, 7)}),
    ):
        with pytest.raises(ContainerError):
            networks.free_address(network, used, wanted)


# --- the command line's own language

LINE = Words(
    "x",
    "[OPTIONS] A",
    "About.",
    (
        Flag("rm"),
        Flag("tty", "t"),
        Flag("interactive", "i", BOOL),
        Flag("publish", "p", LIST),
        Flag("name", "", TEXT, "", ""),
        Flag("count", "n", INT, "", 1),
    ),
    least=1,
    opaque=True,
)


def test_flags_are_read_in_all_of_dockers_forms() -> None:
    found = LINE.read(
        ["-itp80:80", "--publish=81:81", "-p", "82", "--rm=false", "--name", "x", "-n=3", "image", "-t", "--rm"]
    )
    assert (found.tty, found.interactive, found.rm, found.name, found.count) == (True, True, False, "x", 3)
    assert found.publish == ["80:80", "81:81", "82"]
    assert found.words == ["image", "-t", "--rm"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nope", "a"], "unknown flag: --nope"),
        (["-x", "a"], "unknown shorthand flag: 'x' in -x"),
        (["--name"], "flag needs an argument: --name"),
        (["-p"], "flag needs an argument: 'p' in -p"),
        (["-n", "many", "a"], 'invalid argument "many" for "-n, --count" flag'),
        (["--rm=perhaps", "a"], 'invalid argument "perhaps" for "--rm" flag'),
        ([], '"hythe x" requires at least 1 argument.'),
    ],
)
def test_what_flags_cannot_be_is_said_in_dockers_words(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Stop) as stopped:
        LINE.read(words)
    assert stopped.value.status in (1, 125)
    assert said in capsys.readouterr().err
