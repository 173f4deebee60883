"""The gate's socket, before an engine that keeps every byte it hears."""

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from gate.behind import (
    UUID,
    FakeEngine,
    Said,
    fake_engine,
    gate,
    labels,
    request,
    say,
    server,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CREATE = "/v1.41/containers/create?name=lab-ann"
PING = b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n"
NO_CONTENT = 204
HEARD = re.compile(
    rb"(POST|PUT) (/v1\.[0-9]+)?/(containers/(create|a{64}/(stop|exec|archive)))"
    rb"(\?(t|path|name)=[A-Za-z0-9%.-]+)? HTTP/1\.1\r\nHost: docker\r\n"
    rb"(Content-Length: [0-9]+|Transfer-Encoding: chunked)"
    rb"(\r\nContent-Type: application/(json|x-tar))?\r\nConnection: close"
)


@dataclass(frozen=True)
class Stage:
    """A gate and what stands behind it."""

    engine: FakeEngine
    socket: Path
    mine: str
    other: str

    def say(self, raw: bytes) -> Said:
        return say(self.socket, raw)

    def refuses(self, raw: bytes, status: int = 403) -> str:
        """Say it: it is refused, and the engine was at most asked whose it is."""
        before = len(self.engine.told)
        said = self.say(raw)
        assert said.status == status, said
        assert self.engine.told[before:] == []
        assert said.message.startswith("The gate in front of the engine refuses this")
        return said.message


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A server of this hub, one of another hub, and something else's container."""
    engine_path, path = tmp_path / "engine.sock", tmp_path / "gate.sock"
    with fake_engine(engine_path) as engine, gate(engine_path, path):
        mine = engine.add("a", "lab-ann")
        other = engine.add("b", "db", **{"gpuspawner.hub": "other"})
        engine.add_volume("lab-home-ann")
        yield Stage(engine, path, mine, other)


# ------------------------------------------------------------- what is passed on


def test_a_request_is_written_anew(stage: Stage) -> None:
    """By id, with none of the hub's own headers, one to a connection."""
    raw = request("POST", "/v1.41/containers/lab-ann/stop?t=10", headers={"X-A": "b"})
    assert stage.say(raw).status == NO_CONTENT
    assert stage.engine.told == [
        f"POST /v1.41/containers/{stage.mine}/stop?t=10 HTTP/1.1\r\nHost: docker\r\n"
        "Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
    ]


def test_whose_it_is_is_asked_once(stage: Stage) -> None:
    """Labels and ids never change; names are asked for each time."""
    for _ in range(3):
        stage.say(request("POST", f"/containers/{stage.mine}/stop"))
    asked = [raw for raw in stage.engine.heard if raw not in stage.engine.told]
    assert len(asked) == 1
    for _ in range(2):
        stage.say(request("POST", "/containers/lab-ann/stop"))
    asked = [raw for raw in stage.engine.heard if raw not in stage.engine.told]
    assert len(asked) == 3


def test_the_engine_reads_the_body_that_was_judged(stage: Stage) -> None:
    """Not the text that came: whatever it was, it is one JSON object now."""
    body = json.dumps(server(), indent=7).encode().replace(b"Cmd", b"C\\u006dd")
    raw = request("POST", CREATE, headers={"Content-Length": str(len(body))}) + body
    assert stage.say(raw).status == NO_CONTENT
    sent = stage.engine.told[0].partition(b"\r\n\r\n")[2]
    assert sent == json.dumps(json.loads(body)).encode()
    assert b"\\u006d" not in sent


def test_answers_of_the_engine_come_back_as_they_are(stage: Stage) -> None:
    """Errors, too: a 404 means gone, and only that."""
    stage.engine.answer = (
        b"HTTP/1.1 409 Conflict\r\nApi-Version: 1.41\r\nTransfer-Encoding: chunked\r\n"
        b"Connection: close\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    )
    said = stage.say(request("POST", CREATE, server()))
    assert said.head + b"\r\n\r\n" + said.body == stage.engine.answer
    gone = stage.say(request("POST", "/containers/gone/start"))
    assert (gone.status, gone.message) == (404, "No such thing")


def test_a_large_tar_goes_through_in_either_form(stage: Stage) -> None:
    """To the last byte, whether its length is known or not."""
    target = f"/containers/{stage.mine}/archive?path=%2F"
    packed = bytes(range(256)) * 4096 * 8
    whole = request("PUT", target, headers={"Content-Length": str(len(packed))})
    assert stage.say(whole + packed).status == NO_CONTENT
    assert stage.engine.told[-1].partition(b"\r\n\r\n")[2] == packed
    parts = [packed[:70000], packed[70000:]]
    chunks = b"".join(b"%X\r\n%b\r\n" % (len(part), part) for part in parts)
    chunked = request("PUT", target, headers={"Transfer-Encoding": "chunked"})
    assert stage.say(chunked + chunks + b"0\r\n\r\n").status == NO_CONTENT
    sent = stage.engine.told[-1].partition(b"\r\n\r\n")[2]
    assert sent.startswith(b"11170\r\n")
    assert sent.endswith(b"\r\n0\r\n\r\n")


def test_a_command_becomes_a_stream_only_if_the_engine_says_so(stage: Stage) -> None:
    """Both directions then; otherwise nothing more is passed on."""
    run = "e" * 64
    stage.engine.executions[run] = stage.mine
    upgrade = {"Connection": "Upgrade", "Upgrade": "tcp"}
    raw = request("POST", f"/exec/{run}/start", {"Detach": False}, upgrade)
    stage.engine.keeps_open = True
    stage.engine.answer = b"HTTP/1.1 101 UPGRADED\r\n\r\nhello"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(stage.socket))
        connection.sendall(raw)
        got = b""
        while not got.endswith(b"hello"):
            got += connection.recv(100)
        connection.sendall(b"input")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
    assert stage.engine.told[-1].endswith(b'{"Detach": false}input')
    stage.engine.answer = b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\n{}"
    stage.say(raw + PING)
    assert stage.engine.told[-1].endswith(b'{"Detach": false}')


def test_an_engine_that_is_gone_is_no_refusal(tmp_path: Path) -> None:
    """The hub reads a 5xx as: nothing is known."""
    with gate(tmp_path / "absent.sock", tmp_path / "gate.sock"):
        for target in ("/_ping", "/containers/json", f"/containers/{'a' * 64}/json"):
            said = say(tmp_path / "gate.sock", request("GET", target))
            assert said.status == 502
            assert said.message.startswith("The gate cannot ask the engine")


# --------------------------------------------------------------- what is refused


def test_two_requests_in_one_connection_are_one(stage: Stage) -> None:
    """The engine hears of the first at most."""
    evil = request("POST", f"/containers/{stage.other}/stop")
    for first in (
        request("GET", "/_ping"),
        request("POST", f"/containers/{stage.mine}/start"),
        request("POST", CREATE, server()),
        request("GET", "/containers/json"),
    ):
        stage.say(first + evil)
        stage.say(first + b"\r\n" + evil)
    assert stage.other not in b"".join(stage.engine.told).decode()
    assert b"stop" not in b"".join(stage.engine.told)


def test_a_request_inside_a_body_stays_there(stage: Stage) -> None:
    """Lengths that lie by either header, and chunks that lie."""
    evil = request("POST", f"/containers/{stage.other}/stop")
    put = f"/containers/{stage.mine}/archive?path=%2F"
    chunked = {"Transfer-Encoding": "chunked"}
    both = chunked | {"Content-Length": "5"}
    for raw in (
        request("PUT", put, headers=both) + b"0\r\n\r\n" + evil,
        request("PUT", put, headers={"Content-Length": "0"}) + evil,
        request("PUT", put, headers=chunked) + b"0\r\n\r\n" + evil,
        request("PUT", put, headers=chunked) + b"0;a=b\r\n\r\n" + evil,
        request("PUT", put, headers=chunked) + b"0\r\nX: y\r\n\r\n" + evil,
        request("PUT", put, headers=chunked) + b"-1\r\n\r\n" + evil,
        request("PUT", put, headers=chunked) + b"0x0\r\n\r\n" + evil,
        request("PUT", put, headers=chunked) + b"1\r\nab\r\n0\r\n\r\n" + evil,
        request("PUT", put, headers=chunked) + b"1\nb\r\n0\r\n\r\n" + evil,
        request("PUT", put, headers=chunked) + b"fffffffff\r\n" + evil,
        request("POST", CREATE, headers=chunked) + b"0\r\n\r\n" + evil,
    ):
        stage.say(raw)
    assert stage.other not in b"".join(stage.engine.told).decode()


@pytest.mark.parametrize(
    "target",
    [
        "/v1.41/containers/{}/start",
        "/v1.41/containers/db/start",
        "/containers/{}/stop?t=1",
        "/v1.41/containers/{}/exec",
    ],
)
def test_others_containers_are_left_alone(stage: Stage, target: str) -> None:
    message = stage.refuses(request("POST", target.format(stage.other)))
    assert "not a server of this hub" in message


def test_nothing_is_run_laid_or_read_in_others_containers(stage: Stage) -> None:
    """Not by the container's id, and not by a command's."""
    stage.engine.executions["e" * 64] = stage.other
    archive = f"/containers/{stage.other}/archive?path=%2F"
    stage.refuses(request("POST", "/containers/db/exec", {"Cmd": ["sh"]}))
    stage.refuses(request("POST", f"/exec/{'e' * 64}/start", {"Detach": True}))
    stage.refuses(request("GET", f"/exec/{'e' * 64}/json"))
    stage.refuses(request("GET", archive))
    stage.refuses(request("PUT", archive, headers={"Content-Length": "9"}) + b"x" * 9)
    stage.refuses(request("DELETE", "/containers/db?force=1"))


def test_a_container_of_an_image_made_from_a_server_is_not_ours(stage: Stage) -> None:
    """It has the same labels, and another name."""
    stage.engine.add("c", "copy", **labels("lab-ann"))
    stage.refuses(request("POST", "/containers/copy/start"))


@pytest.mark.parametrize("name", ["LD_PRELOAD", "LD_AUDIT"])
def test_no_server_starts_whose_image_loads_code_into_hooks(
    stage: Stage, name: str
) -> None:
    """What the image brings is in the container's environment, asked for each time."""
    config = stage.engine.containers["lab-ann"]["Config"]
    stage.say(request("POST", f"/containers/{stage.mine}/start"))
    assert len(stage.engine.told) == 1
    config["Env"] = ["A=b", f"{name}=./hook.so"]
    for ref in (stage.mine, "lab-ann"):
        message = stage.refuses(request("POST", f"/containers/{ref}/start"))
        assert name in message


def test_a_volume_is_mounted_only_if_it_is_a_home_of_this_hub(stage: Stage) -> None:
    """By the engine's word: a name says little, and one that is not there less."""
    stage.engine.add_volume("lab-home-bob", hub="other")
    stage.engine.add_volume("lab-home-cy", Options={"device": "/"})
    for name in ("lab-home-bob", "lab-home-cy", "lab-home-absent"):
        body = server(Binds=[f"{name}:/home/jovyan"])
        assert name in stage.refuses(request("POST", CREATE, body))
    for name in ("lab-home-bob", "lab-home-cy"):
        stage.refuses(request("GET", f"/volumes/{name}"))
        stage.refuses(request("DELETE", f"/volumes/{name}"))
    assert stage.say(request("DELETE", "/volumes/lab-home-ann")).status == NO_CONTENT


def test_a_refusal_names_what_is_wrong(stage: Stage) -> None:
    """An admin reads it in the hub's log."""
    message = stage.refuses(request("POST", CREATE, server(Privileged=True)))
    assert "HostConfig.Privileged" in message
    message = stage.refuses(request("POST", CREATE, server(Binds=["/:/host"])))
    assert "'/' may not be mounted" in message


def test_what_cannot_be_judged_is_refused(stage: Stage) -> None:
    """Too long, broken, or not HTTP."""
    stage.refuses(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 431)
    stage.refuses(b"\x16\x03\x01\r\n\r\n", 400)
    long = request("POST", CREATE, headers={"Content-Length": str(2**30)})
    stage.refuses(long, 413)
    stage.refuses(request("POST", CREATE, {"A": "x" * 2**20}), 413)
    stage.refuses(request("GET", "/v1.41/../info"), 400)
    stage.refuses(PING.replace(b"/_ping", b"http://docker/_ping"), 400)


def test_only_a_hubs_own_containers_are_told_whole(stage: Stage) -> None:
    """Of others that they hold a GPU."""
    mine = stage.say(request("GET", "/containers/lab-ann/json")).body
    assert b"PASSWORD=secret" in mine
    other = stage.say(request("GET", "/containers/db/json")).body
    assert b"secret" not in other
    assert UUID.encode() in other
    rows = json.loads(stage.say(request("GET", "/containers/json?all=1")).body)
    told = {row["Names"][0]: row for row in rows}
    assert told["/lab-ann"]["Command"] == "secret"
    assert "secret" not in json.dumps(told["/db"])
    assert told["/db"]["Id"] == stage.other


MUTATIONS = st.lists(
    st.tuples(
        st.integers(0, 400),
        st.sampled_from(
            [
                b"\r\n",
                b"\n",
                b"\r",
                b" ",
                b"\t",
                b"\x00",
                b"\r\n\r\n",
                b"%2e%2e/",
                b"../",
                b"//",
                b"?",
                b"&",
                b"Content-Length: 0\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"Upgrade: tcp\r\n",
                b"Connection: Upgrade\r\n",
                b"0\r\n\r\n",
                b"HTTP/1.1",
                b"b" * 64,
                b'"Privileged": true, ',
            ]
        ),
    ),
    max_size=4,
)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.sampled_from(range(4)), MUTATIONS, st.booleans())
def test_whatever_is_mixed_in_the_engine_hears_what_was_judged(
    stage: Stage, which: int, mutations: list[tuple[int, bytes]], is_cut: bool
) -> None:
    """Each thing it hears is one whole request of the gate's own making."""
    put = f"/v1.41/containers/{stage.mine}/archive?path=%2F"
    raw = [
        request("POST", f"/v1.41/containers/{stage.mine}/stop?t=1"),
        request("POST", CREATE, server()),
        request("PUT", put, headers={"Transfer-Encoding": "chunked"}) + b"3\r\nabc\r\n",
        request("POST", f"/containers/{stage.mine}/exec", {"Cmd": ["true"]}),
    ][which]
    for at, text in mutations:
        raw = raw[:at] + text + raw[at:]
    evil = request("POST", f"/v1.41/containers/{stage.other}/stop")
    before = len(stage.engine.told)
    say(stage.socket, (raw if is_cut else raw + b"0\r\n\r\n") + evil, ends=True)
    heard = b"\n".join(stage.engine.told[before:])
    assert stage.other.encode() not in heard.partition(b"\r\n\r\n")[0]
    for one in stage.engine.told[before:]:
        head, _, body = one.partition(b"\r\n\r\n")
        assert HEARD.fullmatch(head), head
        if b"Transfer-Encoding" not in head:
            assert f"Content-Length: {len(body)}".encode() in head
        assert b'"Privileged": true' not in body or b"Env" not in body
