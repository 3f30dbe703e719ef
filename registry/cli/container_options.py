"""The options of `run` and `create`, and from them and an image's configuration the container's specification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from registry.cli import health_options
from registry.cli.flags import BOOL, INT, LIST, TEXT, Flag
from registry.client.runtime import parse, parse_mounts, parse_ports
from registry.client.runtime.errors import OptionInvalid
from registry.client.runtime.spec import Mount, Spec

LIMITS = (
    Flag("cpu-shares", "c", INT, "CPU shares (relative weight)", 0),
    Flag("cpus", "", TEXT, "Number of CPUs", ""),
    Flag("cpuset-cpus", "", TEXT, "CPUs in which to allow execution (0-3, 0,1)", ""),
    Flag("memory", "m", TEXT, "Memory limit", ""),
    Flag("memory-reservation", "", TEXT, "Memory soft limit", ""),
    Flag("memory-swap", "", TEXT, "Swap limit equal to memory plus swap: '-1' to enable unlimited swap", ""),
    Flag("pids-limit", "", INT, "Tune container pids limit (set -1 for unlimited)", 0),
    Flag("restart", "", TEXT, "Restart policy to apply when a container exits", "no"),
)
FLAGS = (
    *LIMITS,
    Flag("add-host", "", LIST, "Add a custom host-to-IP mapping (host:ip)"),
    Flag("attach", "a", LIST, "Attach to STDIN, STDOUT or STDERR"),
    Flag("cap-add", "", LIST, "Add Linux capabilities"),
    Flag("cap-drop", "", LIST, "Drop Linux capabilities"),
    Flag("cgroup-parent", "", TEXT, "Optional parent cgroup for the container", ""),
    Flag("cidfile", "", TEXT, "Write the container ID to the file", ""),
    Flag("device", "", LIST, "Add a host device to the container"),
    Flag("dns", "", LIST, "Set custom DNS servers"),
    Flag("dns-search", "", LIST, "Set custom DNS search domains"),
    Flag("domainname", "", TEXT, "Container NIS domain name", ""),
    Flag("engine", "", TEXT, "The OCI runtime: runc, crun, or a path", ""),
    Flag("entrypoint", "", TEXT, "Overwrite the default ENTRYPOINT of the image"),
    Flag("env", "e", LIST, "Set environment variables"),
    Flag("env-file", "", LIST, "Read in a file of environment variables"),
    Flag("expose", "", LIST, "Expose a port or a range of ports"),
    Flag("group-add", "", LIST, "Add additional groups to join"),
    *health_options.FLAGS,
    Flag("hostname", "h", TEXT, "Container host name", ""),
    Flag("init", "", BOOL, "Run an init inside the container that forwards signals and reaps processes"),
    Flag("interactive", "i", BOOL, "Keep STDIN open even if not attached"),
    Flag("ip", "", TEXT, "IPv4 address (e.g., 172.30.100.104)", ""),
    Flag("ipc", "", TEXT, "IPC mode to use", ""),
    Flag("label", "l", LIST, "Set meta data on a container"),
    Flag("label-file", "", LIST, "Read in a line delimited file of labels"),
    Flag("log-driver", "", TEXT, "Logging driver for the container (json-file or none)", "json-file"),
    Flag("log-opt", "", LIST, "Log driver options (max-size, max-file)"),
    Flag("mount", "", LIST, "Attach a filesystem mount to the container"),
    Flag("name", "", TEXT, "Assign a name to the container", ""),
    Flag("net", "", TEXT, "", ""),
    Flag("network", "", TEXT, "Connect a container to a network (bridge, none, host, container:NAME)", ""),
    Flag("network-alias", "", LIST, "Add network-scoped alias for the container"),
    Flag("oom-score-adj", "", INT, "Tune host's OOM preferences (-1000 to 1000)", 0),
    Flag("pid", "", TEXT, "PID namespace to use", ""),
    Flag("platform", "", TEXT, "Set platform if server is multi-platform capable", ""),
    Flag("privileged", "", BOOL, "Give extended privileges to this container"),
    Flag("publish", "p", LIST, "Publish a container's port(s) to the host"),
    Flag("publish-all", "P", BOOL, "Publish all exposed ports to random ports"),
    Flag("pull", "", TEXT, 'Pull image before running ("always"|"missing"|"never")', "missing"),
    Flag("quiet", "q", BOOL, "Suppress the pull output"),
    Flag("read-only", "", BOOL, "Mount the container's root filesystem as read only"),
    Flag("rm", "", BOOL, "Automatically remove the container when it exits"),
    Flag("runtime", "", TEXT, "", ""),
    Flag("security-opt", "", LIST, "Security Options"),
    Flag("shm-size", "", TEXT, "Size of /dev/shm", ""),
    Flag("stop-signal", "", TEXT, "Signal to stop a container", ""),
    Flag("stop-timeout", "", INT, "Timeout (in seconds) to stop a container"),
    Flag("sysctl", "", LIST, "Sysctl options"),
    Flag("tmpfs", "", LIST, "Mount a tmpfs directory"),
    Flag("tty", "t", BOOL, "Allocate a pseudo-TTY"),
    Flag("ulimit", "", LIST, "Ulimit options"),
    Flag("user", "u", TEXT, "Username or UID (format: <name|uid>[:<group|gid>])"),
    Flag("uts", "", TEXT, "UTS namespace to use", ""),
    Flag("volume", "v", LIST, "Bind mount a volume"),
    Flag("workdir", "w", TEXT, "Working directory inside the container", ""),
)
_SECURITY = ("no-new-privileges", "seccomp", "apparmor", "label", "systempaths")


def specification(
    options: SimpleNamespace, image: str, words: Sequence[str], config: Mapping[str, Any], given: Mapping[str, str]
) -> Spec:
    """The container that is asked for; *config* is the image's, *given* the caller's environment.

    Raises OptionInvalid.
    """
    entrypoint, command = _command(options, words, config)
    policy, most = parse.restart(options.restart)
    if options.rm and policy != "no":
        raise OptionInvalid("Conflicting options: --restart and --rm")
    attach = _attach(options)
    ports = tuple(port for text in options.publish for port in parse_ports.port(text))
    exposed = [
        *(config.get("ExposedPorts") or {}),
        *(each for text in options.expose for each in parse_ports.exposed(text)),
        *(f"{port.container}/{port.protocol}" for port in ports),
    ]
    stop_signal = options.stop_signal or config.get("StopSignal") or "SIGTERM"
    parse.signal_number(stop_signal)
    stdin = options.interactive or "stdin" in options.attach
    return Spec(
        image=image,
        entrypoint=entrypoint,
        command=command,
        env=_environment(options, config, given),
        workdir=options.workdir or config.get("WorkingDir") or "",
        user=options.user if options.user is not None else config.get("User") or "",
        hostname=options.hostname,
        domainname=options.domainname,
        labels={**(config.get("Labels") or {}), **parse.labels(options.label, options.label_file)},
        exposed=tuple(dict.fromkeys(exposed)),
        stop_signal=stop_signal,
        stop_timeout=10 if options.stop_timeout is None else options.stop_timeout,
        tty=options.tty,
        open_stdin=stdin,
        stdin_once=stdin and not getattr(options, "detach", False),
        attach=attach,
        auto_remove=options.rm,
        restart=policy,
        restart_max=most,
        mounts=_mounts(options, config),
        readonly=options.read_only,
        network=_network(options.network or options.net or "bridge"),
        aliases=tuple(options.network_alias),
        ports=ports,
        publish_all=options.publish_all,
        hosts=tuple(map(parse.host, options.add_host)),
        dns=tuple(options.dns),
        dns_search=tuple(options.dns_search),
        address=options.ip,
        ulimits=tuple(map(parse.ulimit, options.ulimit)),
        cap_add=tuple(options.cap_add),
        cap_drop=tuple(options.cap_drop),
        privileged=options.privileged,
        devices=tuple(map(parse_mounts.device, options.device)),
        security=tuple(map(_security, options.security_opt)),
        sysctls=parse.labels(options.sysctl),
        groups=tuple(options.group_add),
        pid=options.pid,
        ipc=options.ipc if options.ipc != "private" else "",
        uts=options.uts,
        init=options.init,
        cgroup_parent=options.cgroup_parent,
        oom_score=options.oom_score_adj,
        log_driver=_log_driver(options.log_driver),
        log_options=_log_options(options),
        health=health_options.health(options, config),
        engine=options.engine or options.runtime,
        shm_size=parse.size(options.shm_size) if options.shm_size else Spec("").shm_size,
        **limits(options),
    )


def _command(
    options: SimpleNamespace, words: Sequence[str], config: Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if options.entrypoint is not None:
        return (options.entrypoint,) if options.entrypoint else (), tuple(words)
    return tuple(config.get("Entrypoint") or ()), tuple(words or config.get("Cmd") or ())


def _environment(options: SimpleNamespace, config: Mapping[str, Any], given: Mapping[str, str]) -> tuple[str, ...]:
    """What was asked for, then what of the image's it does not replace: docker's order."""
    asked = parse.environment(options.env, options.env_file, given)
    names = {text.partition("=")[0] for text in asked}
    return (*asked, *(text for text in config.get("Env") or () if text.partition("=")[0] not in names))


def _attach(options: SimpleNamespace) -> tuple[str, ...]:
    chosen = tuple(text.lower() for text in options.attach)
    for text in chosen:
        if text not in ("stdin", "stdout", "stderr"):
            raise OptionInvalid(
                f'invalid argument "{text}" for "-a, --attach" flag: valid streams are STDIN, STDOUT and STDERR'
            )
    if chosen and getattr(options, "detach", False):
        raise OptionInvalid("Conflicting options: -a and -d")
    return chosen


def _mounts(options: SimpleNamespace, config: Mapping[str, Any]) -> tuple[Mount, ...]:
    asked = [
        *map(parse_mounts.volume, options.volume),
        *map(parse_mounts.mount, options.mount),
        *map(parse_mounts.tmpfs, options.tmpfs),
    ]
    targets = [mount.target for mount in asked]
    for target in targets:
        if targets.count(target) > 1:
            raise OptionInvalid(f"Duplicate mount point: {target}")
    image = [parse_mounts.volume(path) for path in config.get("Volumes") or {}]
    return (*(mount for mount in image if mount.target not in targets), *asked)


def _network(text: str) -> str:
    return "bridge" if text == "default" else text


def _security(text: str) -> str:
    text = text.replace(":", "=", 1) if "=" not in text else text
    if text.partition("=")[0] not in _SECURITY:
        raise OptionInvalid(f"invalid --security-opt {text!r}: use one of {', '.join(_SECURITY)}")
    return text


def _log_driver(text: str) -> str:
    if text not in ("k8s-file", "json-file", "local", "none"):
        raise OptionInvalid(f"unknown log driver {text}: there are json-file and none")
    return text


def _log_options(options: SimpleNamespace) -> dict[str, str]:
    found = parse.labels(options.log_opt)
    parse.log_bytes(found)
    return found


def limits(options: SimpleNamespace, alone: bool = True) -> dict[str, Any]:
    """What of the machine it may take; not *alone*, it adds to what is set. Raises OptionInvalid."""
    memory = parse.size(options.memory) if options.memory else 0
    swap = parse.size(options.memory_swap) if options.memory_swap else 0
    if 0 < memory < 6 << 20:
        raise OptionInvalid("Minimum memory limit allowed is 6MB")
    if alone and swap > 0 and not memory:
        raise OptionInvalid("You should always set the Memory limit when using Memoryswap limit, see usage")
    if 0 < swap < memory:
        raise OptionInvalid("Minimum memoryswap limit should be larger than memory limit, see usage")
    return {
        "memory": memory,
        "memory_swap": swap,
        "memory_reservation": parse.size(options.memory_reservation) if options.memory_reservation else 0,
        "nano_cpus": parse.cpus(options.cpus) if options.cpus else 0,
        "cpu_shares": options.cpu_shares,
        "cpuset": options.cpuset_cpus,
        "pids_limit": options.pids_limit,
    }
