"""Several hosts with a slow network between them on one Linux machine: network namespaces around a bridge.

    with network_hosts(4, 12.5e6) as hosts:
        subprocess.run(hosts.command(0, ["python", "-m", ...]), env={..., "GLOO_SOCKET_IFNAME": hosts.interface})

The bridge lives in a namespace of its own, so nothing of the machine's own network changes. A host's link is shaped
at both ends: what it sends, and what all others send to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from adapters.command import sigterm_raises
from formulations.errors import InputError

_SUBNET = "10.71.0"
_MOST_HOSTS = 250
_INTERFACE = "eth0"
#: Namespaces are named after the process that made them, so that those of one that is gone can be told.
_NAME = re.compile(r"hosts-(\d+)-[0-9a-f]{8}-(?:\d+|switch)")
#: What a link lets through at once after a pause, in seconds of its rate: 3 kB at 100 Mbit/s, 31 kB at 1 Gbit/s. That
#: much of an exchange is not metered, so less is truer; but a timer that fires later than that costs rate. With this,
#: links keep their rate within half a per cent up to 1 Gbit/s, headers counted; 400 µs gain nothing.
_BURST_SECONDS = 250e-6
#: One frame of Ethernet, and room for the clock's grain: what a slow link needs at least.
_LEAST_BURST = 2000
#: Bytes that TCP hands to an interface in one piece. Pieces above the burst are cut into frames by tbf, which slow
#: links do not feel; at 1 Gbit/s on a busy machine 125 MB took 1.43 s in the usual pieces of 64 kB, in these 1.16 s.
_PIECE = 16384
#: Waiting at a link before anything is lost. At 100 Mbit/s 1 MiB from each of three hosts to the fourth, all at once,
#: takes 1.06 times as long as its bytes.
_QUEUE_BYTES = 1 << 20


@dataclass(frozen=True)
class Traffic:
    """Bytes on a host's link since it was made, with all headers and what TCP says back."""

    sent: int
    received: int


@dataclass(frozen=True)
class Hosts:
    """Hosts 0..P−1, and how to run something there.

    Attributes:
        addresses: P, by which they reach each other.
        interface: of every host; what GLOO_SOCKET_IFNAME wants.
        namespaces: P; empty where all hosts are this machine.
        note: what is not as it was asked for; empty if all is.
    """

    addresses: tuple[str, ...]
    interface: str
    namespaces: tuple[str, ...] = ()
    note: str = ""

    def command(self, host: int, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` on a host. What still runs in a namespace at the end is killed."""
        return ["ip", "netns", "exec", self.namespaces[host], *command] if self.namespaces else list(command)

    def traffic(self) -> list[Traffic]:
        """P; empty where all hosts are this machine, and nothing tells their bytes apart."""
        switch = _switch(self.namespaces[0]) if self.namespaces else ""
        return [
            Traffic(_bytes_passed(namespace, _INTERFACE), _bytes_passed(switch, _port(host)))
            for host, namespace in enumerate(self.namespaces)
        ]


@contextlib.contextmanager
def network_hosts(num_hosts: int, bytes_per_second: float, seconds: float = 0.0) -> Iterator[Hosts]:
    """Hosts for as long as the context lasts, however it ends; SIGTERM ends it with SystemExit.

    Where this machine cannot have them (no root, no `ip` or `tc`), all hosts are this machine, and `note` says why.

    Args:
        bytes_per_second: of every host's link, each way; headers count.
        seconds: added delay of every packet one way, where the kernel can.

    Raises:
        InputError: numbers that no network has.
    """
    _check(num_hosts, bytes_per_second, seconds)
    remove_leftovers()
    stem = f"hosts-{os.getpid()}-{secrets.token_hex(4)}"
    names = (*(f"{stem}-{host}" for host in range(num_hosts)), f"{stem}-switch")
    with sigterm_raises():
        try:
            try:
                hosts = _make(names, bytes_per_second, seconds)
            except _RefusedError as error:
                note = f"no network between hosts, all are this machine: {error}"
                hosts = Hosts(("127.0.0.1",) * num_hosts, "lo", note=note)
            yield hosts
        finally:
            _remove(names)


def remove_leftovers() -> list[str]:
    """Remove the hosts of processes that ended without doing so; the names of their namespaces."""
    left = [name for name in _namespaces() if (match := _NAME.fullmatch(name)) and not _runs(int(match[1]))]
    _remove(left)
    return left


class _RefusedError(Exception):
    """What `ip` or `tc` said."""


def _check(num_hosts: int, bytes_per_second: float, seconds: float) -> None:
    if not 1 <= num_hosts <= _MOST_HOSTS:
        raise InputError(f"num_hosts is {num_hosts}; give 1 to {_MOST_HOSTS}")
    if not 1e3 <= bytes_per_second <= 1e10:
        raise InputError(f"bytes_per_second is {bytes_per_second}; give 1e3 to 1e10, such as 12.5e6 for 100 Mbit/s")
    if not 0 <= seconds <= 10:
        raise InputError(f"seconds is {seconds}; give an added delay from 0 to 10")


def _make(names: Sequence[str], bytes_per_second: float, seconds: float) -> Hosts:
    """Raises _RefusedError, with some of it made."""
    *namespaces, switch = names
    delay = f"{1e6 * seconds:.0f}us"
    for name in names:
        _call("ip", "netns", "add", name)
    _ip(switch, "link add br0 type bridge mcast_snooping 0")
    _ip(switch, "link set br0 addrgenmode none up")
    for host, namespace in enumerate(namespaces):
        _join(host, namespace, switch)
    delayed = seconds > 0 and _knows_netem(namespaces[0])
    for host, namespace in enumerate(namespaces):
        _shape(namespace, _INTERFACE, bytes_per_second, delay if delayed else "")
        _shape(switch, _port(host), bytes_per_second)
    note = "no added delay: this kernel has no netem" if seconds > 0 and not delayed else ""
    return Hosts(tuple(map(_address, range(len(namespaces)))), _INTERFACE, tuple(namespaces), note)


def _join(host: int, namespace: str, switch: str) -> None:
    """A cable from the host to the switch."""
    port, address = _port(host), _address(host)
    _ip(switch, f"link add {port} type veth peer name {_INTERFACE} netns {namespace}")
    # Without addresses of IPv6, which talk to everybody by themselves.
    _ip(switch, f"link set {port} addrgenmode none master br0 up")
    _ip(namespace, f"link set {_INTERFACE} addrgenmode none up")
    _ip(namespace, "link set lo up")
    _ip(namespace, f"address add {address}/24 dev {_INTERFACE}")
    # BBR, where it is the default, finds out how fast a link is while it is at work: 1 MiB both ways took a sixth
    # longer than with Reno, which sends on as answers come. So does CUBIC, but not every namespace may choose it.
    _ip(namespace, f"route replace {_SUBNET}.0/24 dev {_INTERFACE} src {address} congctl reno")


def _shape(namespace: str, interface: str, bytes_per_second: float, delay: str = "") -> None:
    """Meter what leaves by the interface."""
    burst = max(_LEAST_BURST, round(_BURST_SECONDS * bytes_per_second))
    _ip(namespace, f"link set {interface} gso_max_size {_PIECE}")
    parent = "root"
    if delay:
        _tc(namespace, f"qdisc add dev {interface} root handle 1: netem delay {delay} limit 100000")
        parent = "parent 1:1"
    rate = f"{8 * bytes_per_second:.0f}bit"
    _tc(namespace, f"qdisc add dev {interface} {parent} handle 2: tbf rate {rate} burst {burst} limit {_QUEUE_BYTES}")


def _knows_netem(namespace: str) -> bool:
    try:
        _tc(namespace, "qdisc add dev lo root netem")
        _tc(namespace, "qdisc del dev lo root")
    except _RefusedError:
        return False
    return True


def _bytes_passed(namespace: str, interface: str) -> int:
    """What tbf let through: unlike the interface's own count, with the headers of every packet on the wire."""
    disciplines = json.loads(_call("tc", "-n", namespace, "-s", "-j", "qdisc", "show", "dev", interface))
    return sum(int(entry["bytes"]) for entry in disciplines if entry["kind"] == "tbf")


def _remove(names: Sequence[str]) -> None:
    """Remove those namespaces that are there, with all that runs in them."""
    for name in set(names).intersection(_namespaces()):
        with contextlib.suppress(_RefusedError):
            for pid in _call("ip", "netns", "pids", name).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _call("ip", "netns", "delete", name)


def _namespaces() -> list[str]:
    """None where there is no `ip`."""
    try:
        return [line.split()[0] for line in _call("ip", "netns", "list").splitlines()]
    except _RefusedError:
        return []


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def _address(host: int) -> str:
    return f"{_SUBNET}.{host + 1}"


def _port(host: int) -> str:
    """The switch's end of a host's cable."""
    return f"port{host}"


def _switch(namespace: str) -> str:
    return f"{namespace.rpartition('-')[0]}-switch"


def _ip(namespace: str, arguments: str) -> None:
    _call("ip", "-n", namespace, *arguments.split())


def _tc(namespace: str, arguments: str) -> None:
    _call("tc", "-n", namespace, *arguments.split())


def _call(*command: str) -> str:
    """What it prints. Raises _RefusedError."""
    try:
        # In a session of its own: Ctrl-C is for us, and must not stop what cleans up.
        done = subprocess.run(command, capture_output=True, text=True, check=False, start_new_session=True)
    except OSError as error:
        raise _RefusedError(f"{command[0]!r} cannot be run ({error.strerror}); install iproute2") from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise _RefusedError(f"`{' '.join(command)}`: {said}")
    return done.stdout
