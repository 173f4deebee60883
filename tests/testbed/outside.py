"""A small world outside of the run's network: an internet, a cloud's metadata, a LAN.

All of it is one network namespace behind the run's own, joined by a pair of interfaces.
Nothing of it leaves the machine.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from testbed.engine import run, wait_until

NEAR, FAR = "203.0.113.1", "203.0.113.2"  # the two ends; addresses for documentation
LINK = "tr-outside"

SERVE = """
import socket, struct, sys, threading
PKTINFO = 8  # which of its addresses was asked, and is to answer
def tcp(listener):
    while True:
        connection, peer = listener.accept()
        with connection:
            connection.sendall(peer[0].encode())
def udp(heard):
    heard.setsockopt(socket.IPPROTO_IP, PKTINFO, 1)
    while True:
        _, told, _, peer = heard.recvmsg(100, 100)
        asked = struct.unpack("i4s4s", told[0][2])[2]
        answer = struct.pack("i4s4s", 0, asked, bytes(4))
        told = [(socket.IPPROTO_IP, PKTINFO, answer)]
        heard.sendmsg([peer[0].encode()], told, 0, peer)
for port in map(int, sys.argv[1:]):
    for kind, serve in ((socket.SOCK_STREAM, tcp), (socket.SOCK_DGRAM, udp)):
        s = socket.socket(socket.AF_INET, kind)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("0.0.0.0", port))
        if kind == socket.SOCK_STREAM:
            s.listen()
        threading.Thread(target=serve, args=[s], daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
"""
"""Answers on every port it is given, by TCP and UDP, with the asker's address."""


@contextlib.contextmanager
def serving(ports: Sequence[int], enter: Sequence[str] = ()) -> Iterator[None]:
    """Answer on these ports in the run's own network, or in the one entered."""
    command = [*enter, sys.executable, "-c", SERVE, *map(str, ports)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        process.wait(10)


def entering() -> list[str]:
    """Return the words before a command that is to run outside."""
    return ["nsenter", f"--net=/run/netns/torchroom-outside-{os.getpid()}"]


@contextlib.contextmanager
def outside(addresses: Sequence[str], ports: Sequence[int]) -> Iterator[None]:
    """A namespace that has these addresses and answers on these ports on all of them.

    It knows the way back to the run's network and no further: who asks without having
    been given an address of the run's network gets no answer, as on the internet.
    """
    name = f"torchroom-outside-{os.getpid()}"
    enter = entering()
    run("ip", "netns", "add", name)
    try:
        peer = ["type", "veth", "peer", "name", LINK, "netns", name]
        run("ip", "link", "add", LINK, *peer)
        run("ip", "addr", "add", f"{NEAR}/30", "dev", LINK)
        run("ip", "link", "set", LINK, "up")
        run(*enter, "ip", "link", "set", "lo", "up")
        run(*enter, "ip", "addr", "add", f"{FAR}/30", "dev", LINK)
        run(*enter, "ip", "link", "set", LINK, "up")
        for address in addresses:
            run(*enter, "ip", "addr", "add", f"{address}/32", "dev", "lo")
            run("ip", "route", "add", f"{address}/32", "via", FAR)
        with serving(ports, enter):
            yield
    finally:
        run("ip", "link", "del", LINK, check=False)
        run("ip", "netns", "del", name, check=False)
        wait_until(
            lambda: LINK not in run("ip", "link"), what="the link is gone", within_s=5
        )
