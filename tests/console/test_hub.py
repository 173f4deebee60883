"""Who owns a token is what the hub says, and for a short while what it said."""

from collections.abc import AsyncIterator, Callable
from urllib.parse import quote

import httpx
import pytest
from testbed.bare_hub import COURSE, BareHub
from torchroom.console import scopes
from torchroom.console.access import Identity
from torchroom.console.hub import CACHED_S, Hub
from torchroom.console.refusals import HubSilent, NotAllowed


class Clock:
    """Shows what it was set to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def asking(hub: BareHub, clock: Clock) -> AsyncIterator[Hub]:
    made = Hub(hub.api_url, hub.keys["console"], clock=clock)
    yield made
    await made.close()


async def test_a_users_token_has_the_users_scopes(asking: Hub, hub: BareHub) -> None:
    """Expanded: `!user` is the user, and subscopes are there."""
    who = await asking.identify(hub.token("ivy"))
    assert who is not None
    assert (who.kind, who.name, who.groups) == ("user", "ivy", (COURSE,))
    assert {
        f"{scopes.SELF}!user=ivy",
        f"{scopes.BALANCE}!user=ivy",
        f"{scopes.COURSE}!group={COURSE}",
    } <= who.scopes
    assert scopes.ADMIN not in who.scopes


async def test_a_servers_token_can_read_the_balance_and_extend_servers(
    asking: Hub, hub: BareHub
) -> None:
    """Nothing else of tokens. It tells the groups, whose courses pay for the server."""
    who = await asking.identify(hub.server_token("alice"))
    assert who is not None
    assert {scope for scope in who.scopes if scope.startswith("custom:")} == {
        f"{scopes.BALANCE}!user=alice",
        f"{scopes.OWN_SERVERS}!user=alice",
    }
    assert who.groups == (COURSE,)


async def test_an_admin_of_tokens_has_every_scope_and_none_of_the_hubs(
    asking: Hub, hub: BareHub
) -> None:
    """No `admin:users`, which would be everything."""
    for token in (hub.token("ada"), hub.keys["bank"]):
        who = await asking.identify(token)
        assert who is not None
        assert {scopes.ADMIN, scopes.SELF, scopes.COURSE, scopes.BALANCE} <= who.scopes
        assert not any(scope.startswith("admin") for scope in who.scopes)


async def test_a_service_is_a_service(asking: Hub, hub: BareHub) -> None:
    """Recorded as one."""
    who = await asking.identify(hub.keys["bank"])
    assert who is not None
    assert (who.kind, who.actor) == ("service", "service bank")


@pytest.mark.parametrize("token", ["", "x", "é", "a\nb", "x" * 600, "\x7f"])
async def test_what_is_no_token_is_nobodys(asking: Hub, token: str) -> None:
    """And it does not break the request that asks for it."""
    assert await asking.identify(token) is None


async def test_a_revoked_token_is_good_for_half_a_minute_at_most(
    asking: Hub, hub: BareHub, clock: Clock
) -> None:
    """An answer is kept so long, and no longer."""
    root = {"Authorization": f"token {hub.keys['root']}"}
    url = f"{hub.api_url}/users/alice/tokens"
    async with httpx.AsyncClient(headers=root) as admin:
        made = (await admin.post(url, json={"note": "soon lost"})).json()
        token = made["token"]
        assert await asking.identify(token) is not None
        await admin.delete(f"{url}/{made['id']}")
    clock.seconds += CACHED_S - 1
    assert await asking.identify(token) is not None
    clock.seconds += 1
    assert await asking.identify(token) is None


async def test_an_unknown_token_is_remembered_too(clock: Clock) -> None:
    """So that asking with it again and again costs the hub nothing."""
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["Authorization"])
        return httpx.Response(403)

    hub = Hub("http://hub/api", "own", transport=httpx.MockTransport(answer))
    for _ in range(3):
        assert await hub.identify("forged") is None
    assert asked == ["token forged"]
    await hub.close()


def unreachable(_request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectTimeout("secret")


@pytest.mark.parametrize(
    "answer",
    [
        unreachable,
        lambda _: httpx.Response(500),
        lambda _: httpx.Response(502, text="<html>"),
        lambda _: httpx.Response(302, headers={"Location": "http://elsewhere/"}),
        lambda _: httpx.Response(200, text="<html>"),
        lambda _: httpx.Response(200, json=[]),
        lambda _: httpx.Response(200, json={"name": "alice", "scopes": []}),
        lambda _: httpx.Response(
            200, json={"kind": "robot", "name": "alice", "scopes": []}
        ),
        lambda _: httpx.Response(200, json={"kind": "user", "name": "", "scopes": []}),
        lambda _: httpx.Response(200, json={"kind": "user", "name": 7, "scopes": []}),
    ],
)
async def test_a_hub_that_makes_no_sense_identifies_nobody(
    answer: Callable[[httpx.Request], httpx.Response],
) -> None:
    """It is asked again the next time; nobody is let in, nobody is a stranger."""
    hub = Hub("http://hub/api", "own", transport=httpx.MockTransport(answer))
    for ask in (hub.identify("token"), hub.groups(), hub.members("ml101")):
        with pytest.raises(HubSilent, match="The hub does not answer"):
            await ask
    await hub.close()


async def test_members_are_told_by_the_hub(asking: Hub) -> None:
    """None: there is no such group."""
    members = await asking.members(COURSE)
    assert members is not None
    assert {"alice", "bob", "ivy"} <= members
    assert await asking.members("no such group") is None
    assert await asking.members("nobodys") == frozenset()


@pytest.mark.parametrize("most", [1, 2, 3, 200])
async def test_groups_are_all_read_from_a_hub_with_smaller_pages(most: int) -> None:
    """A hub gives at most as many at once as its own setting says."""
    names = [f"course-{n}" for n in range(5)]

    def answer(request: httpx.Request) -> httpx.Response:
        offset = int(request.url.params["offset"])
        limit = min(int(request.url.params["limit"]), most)
        end = offset + limit
        more = {"offset": end, "limit": limit, "url": "http://hub/"}
        listing = {
            "items": [{"name": name, "users": [name]} for name in names[offset:end]],
            "_pagination": {"next": more if end < len(names) else None},
        }
        return httpx.Response(200, json=listing)

    hub = Hub("http://hub/api", "own", transport=httpx.MockTransport(answer))
    assert await hub.groups() == {name: (name,) for name in names}
    await hub.close()


async def test_a_list_that_does_not_end_is_not_read_for_ever() -> None:
    """Its next page is the same again."""
    n_asked = 0

    def answer(_request: httpx.Request) -> httpx.Response:
        nonlocal n_asked
        n_asked += 1
        more = {"next": {"offset": 0}}
        return httpx.Response(200, json={"items": [], "_pagination": more})

    hub = Hub("http://hub/api", "own", transport=httpx.MockTransport(answer))
    with pytest.raises(HubSilent):
        await hub.groups()
    assert n_asked == 1
    await hub.close()


@pytest.mark.parametrize("name", [".", "..", "a b", "a/b", "ü", "a?b#c", "a%2Fb"])
async def test_no_name_of_a_group_becomes_another_path(name: str) -> None:
    """Two dots would be the list of all groups."""
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path.decode("ascii"))
        return httpx.Response(404)

    hub = Hub("http://hub/api", "own", transport=httpx.MockTransport(answer))
    assert await hub.members(name) is None
    assert asked == [f"/api/groups/{quote(name, safe='').replace('.', '%2E')}"]
    await hub.close()


async def test_why_the_hub_is_silent_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Users need not know; admins must."""
    said = httpx.Response(403, json={"message": "Needs list:groups"})
    hub = Hub("http://hub/api", "own", transport=httpx.MockTransport(lambda _: said))
    with pytest.raises(HubSilent):
        await hub.groups()
    assert "answered 403 to GET /api/groups: Needs list:groups" in caplog.text
    assert "own" not in caplog.text
    await hub.close()


async def test_the_own_token_is_used_for_nobody_else() -> None:
    """Neither where a user's is asked about, nor where the hub gives one."""
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers.get("Authorization"))
        return httpx.Response(403)

    hub = Hub("http://hub/api", "own", transport=httpx.MockTransport(answer))
    assert await hub.identify("theirs") is None
    with pytest.raises(NotAllowed):
        await hub.token_for("code", "verifier", "client", "http://hub/")
    with pytest.raises(HubSilent):
        await hub.groups()
    assert sent == ["token theirs", None, "token own"]
    await hub.close()


def test_an_actor_is_a_name() -> None:
    """What is written beside every transaction."""
    assert Identity("user", "alice", frozenset()).actor == "alice"
