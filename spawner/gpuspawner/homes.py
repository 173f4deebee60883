"""A server's home: its volume, what is laid into it, what is delivered beside it."""

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path

from gpuspawner import seeding
from gpuspawner.container import HUB, USER, volume_labels
from gpuspawner.engine import DockerEngine
from gpuspawner.errors import EngineRefused, GPUSpawnerError
from gpuspawner.model import Owner

FACTS = "/opt/gpuspawner/server.json"
ROOT = seeding.Owner(0, 0)
OOM_NOTE = "OUT-OF-MEMORY.txt"
GPU_NOTE = "ABOUT-YOUR-GPU.txt"
NOT_FOUND = 404
MAX_MANIFEST = 2**20  # bytes; the manifest lies in the home and may be anything
MAX_SEED = 16 * 2**20  # bytes; a file larger than this is not one of ours


class HomeConflict(GPUSpawnerError):
    """The volume that should become a home belongs to somebody else."""


def read_tree(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder of the hub: relative path -> content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
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
    current = await _current(engine, container, home, files, manifest)
    found = seeding.plan(files, manifest, current)
    if found.writes or found.manifest != manifest:
        text = seeding.write_manifest(found.manifest)
        await _put(
            engine, container, home, {**found.writes, seeding.MANIFEST: text}, owner
        )
    return found


async def _current(
    engine: DockerEngine,
    container: str,
    home: str,
    files: Mapping[str, bytes],
    manifest: Mapping[str, seeding.Record],
) -> dict[str, str | None]:
    """Return what stands at every path that may be written."""
    names = list(files)
    names += [
        seeding.beside(p, n) for p in files for n in range(1, seeding.N_BESIDE + 1)
    ]
    folders = sorted({name.rpartition("/")[0] for name in names} - {""})
    blocked = set()
    for folder in folders:
        found = await engine.stat(container, f"{home}/{folder}")
        if found is not None and not found.is_dir:
            blocked.add(folder)
        elif found is None:
            names = [name for name in names if name.rpartition("/")[0] != folder]
    current: dict[str, str | None] = {}
    for name in names:
        if name.rpartition("/")[0] in blocked:
            current[name] = "in the way: the folder is not a folder"
            continue
        if name not in files and _is_untouched_base(name, files, manifest, current):
            continue
        sizes = {len(files[name])} if name in files else set()
        if name in manifest:
            sizes.add(manifest[name].size)
        current[name] = await _digest(engine, container, f"{home}/{name}", sizes)
    return current


def _is_untouched_base(
    name: str,
    files: Mapping[str, bytes],
    manifest: Mapping[str, seeding.Record],
    current: Mapping[str, str | None],
) -> bool:
    """Return whether nothing will be laid under this beside-name, so nobody looks."""
    base = re.sub(r" \(new version(?: \d+)?\)", "", name)
    now, record = current.get(base), manifest.get(base)
    return (
        now is None
        or now == seeding.digest(files[base])
        or (record is not None and now == record.sha256)
    )


async def _digest(
    engine: DockerEngine, container: str, path: str, sizes: set[int]
) -> str | None:
    """Return a file's sha256, or a text that is none if it cannot be ours."""
    found = await engine.stat(container, path)
    if found is None:
        return None
    if not found.is_file or found.size not in sizes:
        return f"not ours: {found.size} bytes"
    content = await engine.read_file(container, path, MAX_SEED)
    return None if content is None else seeding.digest(content)


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
