"""Hosts in network namespaces: who reaches whom, what is metered and counted, and that nothing is left of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.hosts import Hosts, network_hosts, remove_leftovers
from formulations import InputError

_RATE = 12.5e6
_RECEIVE = """
import socket
server = socket.create_server(("{address}", 5000))
print("ready", flush=True)
connection, (sender, port) = server.accept()
num_bytes = 0
while chunk := connection.recv(65536):
    num_bytes += len(chunk)
print(sender, num_bytes)
"""
_SEND = """
import socket
with socket.create_connection(("{address}", 5000)) as connection:
    connection.sendall(bytes({num_bytes}))
"""
_WAIT_INSIDE = """
import subprocess
from benchmarks.hosts import network_hosts
with network_hosts(2, 12.5e6) as hosts:
    inside = subprocess.Popen(hosts.command(1, ["sleep", "600"]))
    print(inside.pid, *hosts.namespaces, flush=True)
    inside.wait()
"""


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Three with 100 Mbit/s."""
    with network_hosts(3, _RATE) as made:
        if not made.namespaces:
            pytest.skip(made.note)
        yield made


def _python(hosts: Hosts, host: int, code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(hosts.command(host, [sys.executable, "-S", "-c", code]), stdout=subprocess.PIPE, text=True)


def _qdiscs(namespace: str) -> list[dict[str, object]]:
    """What shapes the interfaces of a namespace."""
    shown = subprocess.run(["tc", "-n", namespace, "-j", "qdisc", "show"], capture_output=True, check=True)
    return [entry for entry in json.loads(shown.stdout) if entry["kind"] in ("tbf", "netem")]


def _namespaces() -> set[str]:
    shown = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in shown.stdout.splitlines()}


def test_bytes_cross_from_host_to_host_and_are_counted(hosts: Hosts) -> None:
    """A megabyte from host 0 to host 2 arrives, passes both their links with headers, and never host 1's."""
    before = hosts.traffic()
    with _python(hosts, 2, _RECEIVE.format(address=hosts.addresses[2])) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        with _python(hosts, 0, _SEND.format(address=hosts.addresses[2], num_bytes=1_000_000)):
            assert receiver.stdout.readline() == f"{hosts.addresses[0]} 1000000\n"
    after = hosts.traffic()
    sent = [now.sent - then.sent for then, now in zip(before, after, strict=True)]
    received = [now.received - then.received for then, now in zip(before, after, strict=True)]
    # 691 frames of at most 1,448 bytes of payload and 66 of headers: 1,045,606 bytes.
    assert 1_045_606 <= sent[0] < 1_060_000
    assert 1_045_606 <= received[2] < 1_060_000
    assert sent[1] < 1000
    assert received[1] < 1000


def test_links_are_metered_at_both_ends(hosts: Hosts) -> None:
    """Each host's interface and the switch's port towards it let the rate through, in bytes per second."""
    switch = hosts.namespaces[0].removesuffix("-0") + "-switch"
    shaped = [_qdiscs(namespace) for namespace in (*hosts.namespaces, switch)]
    assert [[(entry["dev"], entry["options"]["rate"]) for entry in entries] for entries in shaped] == [  # type: ignore[index]
        [("eth0", _RATE)], [("eth0", _RATE)], [("eth0", _RATE)],
        [("port0", _RATE), ("port1", _RATE), ("port2", _RATE)],
    ]  # fmt: skip


def test_the_machine_itself_keeps_its_interfaces(hosts: Hosts) -> None:
    """Two more hosts and their switch leave this namespace the interfaces that it had."""
    before = sorted(os.listdir("/sys/class/net"))
    with network_hosts(2, _RATE) as others:
        assert len(_namespaces().intersection(others.namespaces)) == 2
        assert sorted(os.listdir("/sys/class/net")) == before


def test_delay_is_added_or_said_not_to_be(hosts: Hosts) -> None:
    """Hosts with delay have netem, or the note says that the kernel has none; hosts without it say nothing."""
    assert hosts.note == ""
    with network_hosts(2, _RATE, seconds=0.01) as delayed:
        kinds = {str(entry["kind"]) for entry in _qdiscs(delayed.namespaces[0])}
    expected = {"tbf", "netem"} if delayed.note == "" else {"tbf"}
    assert kinds == expected
    assert delayed.note in ("", "no added delay: this kernel has no netem")


def test_nothing_is_left_after_an_error(hosts: Hosts) -> None:
    """An exception inside removes the namespaces and what runs in them, and passes; other hosts stay."""
    made: list[tuple[Hosts, subprocess.Popen[bytes]]] = []

    def fail() -> None:
        with network_hosts(2, _RATE) as others:
            made.append((others, subprocess.Popen(others.command(1, ["sleep", "600"]))))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    [(others, inside)] = made
    assert inside.wait() != 0
    assert not _namespaces().intersection(others.namespaces)
    assert _namespaces() >= set(hosts.namespaces)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_after_a_signal(hosts: Hosts, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM remove namespaces and what runs there; what SIGKILL leaves is found and removed later."""
    root = str(Path(__file__).parents[2])
    with subprocess.Popen([sys.executable, "-c", _WAIT_INSIDE], stdout=subprocess.PIPE, text=True, cwd=root,
                          stderr=subprocess.DEVNULL) as running:  # fmt: skip
        assert running.stdout is not None
        pid, *names = running.stdout.readline().split()
        assert _namespaces() >= set(names)
        running.send_signal(number)
    left = set(remove_leftovers())
    assert left.issuperset(names) == (number == signal.SIGKILL)
    assert not _namespaces().intersection(names)
    assert not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()
    assert _namespaces() >= set(hosts.namespaces)


def test_without_ip_all_hosts_are_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same face without namespaces, and a note that says why."""
    monkeypatch.setenv("PATH", "")
    with network_hosts(2, _RATE) as hosts:
        assert hosts.command(1, ["echo", "x"]) == ["echo", "x"]
        assert hosts.addresses == ("127.0.0.1", "127.0.0.1")
        assert hosts.interface == "lo"
        assert hosts.traffic() == []
        assert hosts.note.startswith("no network between hosts, all are this machine: 'ip' cannot be run")
        assert hosts.note.endswith("install iproute2")


@pytest.mark.parametrize(
    ("num_hosts", "bytes_per_second", "seconds", "said"),
    [
        (0, _RATE, 0, "num_hosts is 0"),
        (2, 0, 0, "bytes_per_second is 0"),
        (2, float("nan"), 0, "bytes_per_second is nan"),
        (2, _RATE, -1, "seconds is -1"),
    ],
)
def test_numbers_that_no_network_has_are_refused(
    num_hosts: int, bytes_per_second: float, seconds: float, said: str
) -> None:
    """One line with the number, before anything is made."""
    with pytest.raises(InputError, match=said), network_hosts(num_hosts, bytes_per_second, seconds):
        pytest.fail("made")
