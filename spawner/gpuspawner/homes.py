"""A server's home: its volume, what is laid into it, what is delivered beside it."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpuspawner import seeding
from gpuspawner.container import HUB, USER, volume_labels
from gpuspawner.engine import DockerEngine
from gpuspawner.errors import EngineRefused, GPUSpawnerError
from gpuspawner.model import Owner
from gpuspawner.seeding import Standing

FACTS = "/opt/gpuspawner/server.json"
ROOT = seeding.Owner(0, 0)
OOM_NOTE = "OUT-OF-MEMORY.txt"
GPU_NOTE = "ABOUT-YOUR-GPU.txt"
NOT_FOUND = 404
MAX_MANIFEST = 2**20  # bytes; the manifest lies in the home and may be anything
LEFT_BY_PROGRAMS = {"__pycache__", ".ipynb_checkpoints"}


class HomeConflict(GPUSpawnerError):
    """The volume that should become a home belongs to somebody else."""


def read_tree(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder of the hub: relative path -> content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and LEFT_BY_PROGRAMS.isdisjoint(path.parts)
    }


def volume_name(hub_id: str, user: str, server: str, taken: set[str]) -> str:
    """Return the name of a new home.

    Args:
        taken: Homes of all other servers of the hub, whoever's.
        user: Escaped user name.
        server: Escaped server name, "" for the default server.
    """
    base = f"{hub_id}-home-{user}" + (f"--{server}" if server else "")
    names = (base, *(f"{base}--{n}" for n in range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)


async def ensure_volume(
    engine: DockerEngine, name: str, hub_id: str, owner: Owner, *, is_known: bool
) -> None:
    """Create the volume if there is none.

    Args:
        is_known: The hub's database says that this is the server's home. Then it may
            bear another user's name: users can be renamed, labels cannot.

    Raises:
        HomeConflict: A volume of that name belongs to another hub or user.
    """
    try:
        found = await engine.call("inspect_volume", name)
    except EngineRefused as error:
        if error.status != NOT_FOUND:
            raise
        await engine.call("create_volume", name, labels=volume_labels(hub_id, owner))
        return
    theirs = found.get("Labels") or {}
    wanted = {HUB: hub_id} if is_known else {HUB: hub_id, USER: owner.user}
    if any(theirs.get(key) != value for key, value in wanted.items()):
        raise HomeConflict(
            f"The volume {name} exists and is not this user's home. An admin must "
            "rename or remove it."
        )


async def delete_volume(engine: DockerEngine, name: str, hub_id: str) -> None:
    """Delete a home for good.

    Raises:
        HomeConflict: The volume is not labelled as this hub's; it is left alone.
    """
    found = await engine.call("inspect_volume", name)
    if (found.get("Labels") or {}).get(HUB) != hub_id:
        raise HomeConflict(f"the volume {name} is not labelled as this hub's")
    await engine.call("remove_volume", name)


async def seed(
    engine: DockerEngine,
    container: str,
    home: str,
    files: Mapping[str, bytes],
    owner: seeding.Owner,
) -> seeding.SeedPlan:
    """Lay files into the home of a created container; see `seeding.plan`."""
    manifest = seeding.read_manifest(
        await engine.read_file(container, f"{home}/{seeding.MANIFEST}", MAX_MANIFEST)
    )
    folders = await _folders(engine, container, home, seeding.folders(files))

    async def standing(path: str, new: bytes) -> Standing | None:
        folder = path.rpartition("/")[0]
        if folder in folders:
            return folders[folder]
        before = manifest.get(path)
        return await _standing(engine, container, f"{home}/{path}", new, before)

    current = {path: await standing(path, new) for path, new in files.items()}
    # In a thread: notebooks are parsed, and may be large.
    found = await asyncio.to_thread(seeding.plan, files, manifest, current)
    if edited := set(found.beside.values()):
        current |= {
            name: await standing(name, files[path])
            for path in edited
            for name in (seeding.beside(path, n + 1) for n in range(seeding.N_BESIDE))
        }
        found = await asyncio.to_thread(seeding.plan, files, manifest, current)
    if found.writes or found.manifest != manifest:
        text = seeding.write_manifest(found.manifest)
        await _put(
            engine, container, home, {**found.writes, seeding.MANIFEST: text}, owner
        )
    return found


async def _folders(
    engine: DockerEngine, container: str, home: str, folders: Sequence[str]
) -> dict[str, Standing | None]:
    """Return what stands in the place of the folders that are none: it may be nothing.

    What is in a folder that is a file or a link of the student's is in the way, too.

    Args:
        folders: Parents first.
    """
    found: dict[str, Standing | None] = {}
    for folder in folders:
        parent = folder.rpartition("/")[0]
        if parent in found:
            found[folder] = found[parent]
            continue
        there = await engine.stat(container, f"{home}/{folder}")
        if there is None or not there.is_dir:
            found[folder] = None if there is None else Standing()
    return found


async def _standing(
    engine: DockerEngine,
    container: str,
    path: str,
    new: bytes,
    before: seeding.Record | None,
) -> Standing | None:
    """Return what stands at a path, with its content if that matters."""
    there = await engine.stat(container, path)
    if there is None:
        return None
    if not (there.is_file and seeding.is_worth_reading(path, there.size, new, before)):
        return Standing()
    return Standing(await engine.read_file(container, path, seeding.MAX_SEED))


async def deliver(
    engine: DockerEngine,
    container: str,
    files: Mapping[str, bytes],
    facts: Mapping[str, object],
) -> None:
    """Put root-owned files and the facts file into a created container.

    Args:
        files: Absolute path in the container -> content.
        facts: What the server may know about itself, see spawner/README.md.
    """
    packed = {path.lstrip("/"): content for path, content in files.items()}
    packed[FACTS.lstrip("/")] = json.dumps(facts, indent=1).encode()
    await _put(engine, container, "/", packed, ROOT)


async def _put(
    engine: DockerEngine,
    container: str,
    folder: str,
    files: Mapping[str, bytes],
    owner: seeding.Owner,
) -> None:
    await engine.put(container, folder, seeding.archive(files, owner, time.time()))


async def leave_note(
    engine: DockerEngine,
    container: str,
    home: str,
    note: tuple[str, str],
    owner: seeding.Owner,
) -> None:
    """Lay a note (name, text) into a running server's home, over an older one."""
    await _put(engine, container, home, {note[0]: note[1].encode()}, owner)
