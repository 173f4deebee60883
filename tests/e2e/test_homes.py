"""Homes: one volume per user and server name, seeded, kept, never overwritten."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from testbed.engine import wait_until
from testbed.hub import Deployment, User, crowd, execute, stop_servers, together

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def owner(deployment: Deployment) -> Iterator[User]:
    """A user with a default server and a named one."""
    with crowd(deployment) as people:
        user = people("owner")
        starts = [partial(user.start, server=name) for name in ("", "second")]
        failed = [r for r in together(starts) if isinstance(r, Exception)]
        assert not failed, failed
        yield user


def in_server(user: User, server: str, script: str) -> str:
    """Run a shell script in one of the user's servers."""
    status, output = execute(user.container(server), ["sh", "-c", script])
    assert status == 0, output
    return output


def home_of(user: User, server: str) -> str:
    """The volume that is the server's home."""
    mounts = user.container(server).attrs["Mounts"]
    found = [row["Name"] for row in mounts if row["Destination"] == "/home/jovyan"]
    assert len(found) == 1, mounts
    return str(found[0])


def test_each_server_has_a_home_of_its_own(owner: User, deployment: Deployment) -> None:
    """One volume per user and server name, labelled with both."""
    assert home_of(owner, "") != home_of(owner, "second")
    for server in ("", "second"):
        (volume,) = deployment.homes(user=owner.name, server=server)
        assert volume.name == home_of(owner, server)


def test_a_new_home_is_seeded_for_its_user(owner: User) -> None:
    """welcome.ipynb and examples are there and belong to the user."""
    listing = in_server(owner, "", "stat -c '%U %n' welcome.ipynb examples/*; id -un")
    lines = listing.splitlines()
    me = lines.pop()
    assert len(lines) >= 4
    assert {line.split()[0] for line in lines} == {me}
    in_server(owner, "", "test -w welcome.ipynb && test -w examples && touch new-file")


def test_the_server_opens_on_the_welcome_notebook(owner: User) -> None:
    """The server's own address leads to the welcome notebook in JupyterLab."""
    at = f"{owner.deployment.url}/user/{owner.name}/"
    reply = owner.session.get(at, timeout=30)
    assert reply.url.endswith("/lab/tree/welcome.ipynb"), reply.url


def test_edits_survive_a_restart(owner: User) -> None:
    """What a student wrote is there afterwards; what was not touched too."""
    in_server(owner, "", "echo mine > examples/mine.txt; echo edited > welcome.ipynb")
    in_server(owner, "", "rm examples/README.md 2>/dev/null; true")
    first = owner.container().id
    owner.stop()
    owner.start("cpu")
    assert owner.container().id != first
    assert in_server(owner, "", "cat examples/mine.txt welcome.ipynb") == (
        "mine\nedited\n"
    )


def test_deleting_a_named_server_keeps_its_home(
    owner: User, deployment: Deployment
) -> None:
    """By default (policy "keep") files outlive their deleted server."""
    in_server(owner, "second", "echo kept > kept.txt")
    reply = owner.api(
        "DELETE", f"/users/{owner.name}/servers/second", json={"remove": True}
    )
    assert reply.ok, reply.text
    wait_until(
        lambda: not deployment.servers(user=owner.name, server="second"),
        what="the container of the deleted server is gone",
        within_s=30,
    )
    assert deployment.homes(user=owner.name, server="second")
    owner.start("cpu", server="second")
    assert in_server(owner, "second", "cat kept.txt") == "kept\n"


def test_renaming_a_server_keeps_its_home(people: Callable[[str], User]) -> None:
    """Files of a renamed server are there under its new name."""
    user = people("renamer")
    user.start("cpu", server="old")
    in_server(user, "old", "echo kept > kept.txt")
    user.stop("old")
    reply = user.api("PATCH", f"/users/{user.name}/servers/old", json={"name": "new"})
    assert reply.ok, reply.text
    user.start("cpu", server="new")
    assert in_server(user, "new", "cat kept.txt") == "kept\n"
    user.start("cpu", server="old")
    assert in_server(user, "old", "ls kept.txt 2>&1; true").startswith("ls:")


def test_homes_of_similar_names_are_not_mixed_up(
    people: Callable[[str], User], deployment: Deployment
) -> None:
    """User "x" with server "a" and user "x--a" have two homes, not one."""
    one = people("mix")
    other = User(deployment, f"{one.name}--a")
    try:
        failed = [
            result
            for result in together([partial(one.start, server="a"), other.start])
            if isinstance(result, Exception)
        ]
        assert not failed, failed
        assert home_of(one, "a") != home_of(other, "")
    finally:
        stop_servers(deployment, [other])


def test_a_renamed_user_keeps_the_home_and_nobody_inherits_it(
    deployment: Deployment,
) -> None:
    """After an admin renamed a user, the files go along; the old name starts empty."""
    user = deployment.new_user("formerly")
    user.start("cpu")
    in_server(user, "", "echo private > private.txt")
    user.stop()
    new_name = f"{user.name}-new"
    reply = deployment.admin_user.api(
        "PATCH", f"/users/{user.name}", json={"name": new_name}
    )
    assert reply.ok, reply.text
    renamed, namesake = User(deployment, new_name), User(deployment, user.name)
    try:
        renamed.start("cpu")
        assert in_server(renamed, "", "cat private.txt") == "private\n"
        namesake.start("cpu")
        assert in_server(namesake, "", "ls private.txt 2>&1; true").startswith("ls:")
    finally:
        stop_servers(deployment, [renamed, namesake])


@pytest.mark.parametrize(
    "trap",
    [
        "truncate -s 100G .gpuspawner/seed.json",
        "head -c 500000 /dev/zero | tr '\\0' '[' > .gpuspawner/seed.json",
        "rm .gpuspawner/seed.json; ln -s /dev/zero .gpuspawner/seed.json",
        "rm -r .gpuspawner; ln -s /proc .gpuspawner",
        "rm -r examples; ln -s /dev examples",
        "rm welcome.ipynb; mkdir welcome.ipynb",
    ],
)
def test_whatever_a_student_does_to_the_seed_the_server_starts(
    people: Callable[[str], User], deployment: Deployment, trap: str
) -> None:
    """And the hub is none the worse."""
    user = people("trapper")
    user.start("cpu")
    in_server(user, "", trap)
    user.stop()
    user.start("cpu")
    assert user.answers()
    assert deployment.is_up()
