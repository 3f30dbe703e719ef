"""`-it` as a person has it: a real terminal on both sides, keys, sizes, signals, leaving and coming back."""

from __future__ import annotations

from tests.client.conftest import needs_root
from tests.client.runtime.conftest import assert_nothing_is_left, status_of
from tests.client.runtime.terminal import Terminal
from tests.support.hythe import Hythe
from tests.support.processes import wait_until

pytestmark = needs_root
NONE = ("--network", "none")
# A shell without line editing: a prompt that is drawn anew now and then would be no sign that it listens.
SHELL = ("sh", "-c", 'echo ready; while read -r line; do eval "$line"; done')


def test_a_shell_at_a_terminal_is_typed_into_and_resized_and_left(hythe: Hythe) -> None:
    person = Terminal(hythe, "run", "-it", "--rm", *NONE, "busybox", *SHELL, rows=30, columns=100)
    person.expect("ready")
    # The monitor hands a line on sooner than a size that came before it.
    person.type("until stty size | busybox grep '30 100'; do sleep 0.05; done; echo t=$TERM; tty\n")
    person.expect("t=xterm")
    person.expect("/dev/pts/0")
    person.resize(50, 120)
    person.type("until stty size | busybox grep '50 120'; do sleep 0.05; done; echo resized\n")
    person.expect("50 120\r")
    person.expect("resized\r")
    person.type("exit 5\n")
    assert person.end() == 5
    assert_nothing_is_left(hythe)


def test_ctrl_c_is_the_containers(hythe: Hythe) -> None:
    person = Terminal(
        hythe,
        "run",
        "-it",
        "--rm",
        *NONE,
        "busybox",
        "sh",
        "-c",
        "trap 'echo caught; exit 4' INT; echo ready; while :; do sleep 0.05; done",
    )
    person.expect("ready")
    person.type("\x03")
    person.expect("caught")
    assert person.end() == 4


def test_a_person_detaches_and_attaches_again(hythe: Hythe) -> None:
    person = Terminal(hythe, "run", "-it", "--name", "one", *NONE, "busybox", *SHELL)
    person.expect("ready")
    person.type("kept=word; echo $kept\n")
    person.expect("echo $kept\r\nword\r\n")
    person.type("\x10\x11")
    assert person.end() == 0
    assert hythe("ps", "--format", "{{.Names}}") == "one\n"
    person = Terminal(hythe, "attach", "--detach-keys", "ctrl-a,x", "one")
    person.type("echo \x10$kept\n")
    person.expect("word\r\n")
    person.type("\x01x")
    assert person.end() == 0
    person = Terminal(hythe, "attach", "one")
    person.type("exit 3\n")
    assert person.end() == 3
    assert wait_until(lambda: hythe("inspect", "-f", "{{.State.ExitCode}}", "one") == "3\n")


def test_exec_at_a_terminal(hythe: Hythe) -> None:
    hythe("run", "-d", "--name", "one", *NONE, "busybox", "sleep", "600")
    person = Terminal(hythe, "exec", "-it", "one", *SHELL, rows=33, columns=90)
    person.expect("ready")
    person.type("stty size; tty\n")
    person.expect("33 90")
    person.expect("/dev/pts/")
    person.type("exit 7\n")
    assert person.end() == 7


def test_start_joins_the_terminal_of_a_container_that_has_one(hythe: Hythe) -> None:
    hythe("create", "-it", "--name", "one", *NONE, "busybox", *SHELL)
    person = Terminal(hythe, "start", "-ai", "one")
    person.expect("ready")
    person.type("exit 2\n")
    assert person.end() == 2


def test_a_terminal_is_asked_for_and_refused_without_one(hythe: Hythe) -> None:
    status, _, said = status_of(hythe, "run", "-it", "--rm", *NONE, "busybox", "true")
    assert (status, said) == (1, "hythe: the input device is not a TTY\n")
    assert hythe.bytes_of("run", "-t", "--rm", *NONE, "busybox", "echo", "lines") == b"lines\r\n"
    assert hythe("ps", "-aq") == ""
