"""A subclass of somebody else's class must not take one of its names by accident."""

import dis
from types import CodeType

from dockerspawner import DockerSpawner
from gpuspawner.configuration import ConfiguredSpawner
from gpuspawner.creation import CreatingSpawner
from gpuspawner.spawner import GPUDockerSpawner
from gpuspawner.starting import StartingSpawner

# What the plugin means to replace. A name that is not here is an accident: `_failed`
# once was, and JupyterHub took every spawner for a failed one.
MEANT = {
    "client", "docker", "load_state", "get_state", "clear_state", "start", "stop",
    "poll", "progress", "rename", "delete_forever", "_default_options_form",
    "_default_options_from_form", "_default_name_template",
}  # fmt: skip


def test_only_what_is_meant_replaces_a_name_of_jupyterhub() -> None:
    """Every own name is either new or listed above."""
    classes = (ConfiguredSpawner, CreatingSpawner, StartingSpawner, GPUDockerSpawner)
    assert all(
        cls in classes or not cls.__module__.startswith("gpuspawner")
        for cls in GPUDockerSpawner.__mro__
    )
    ours = {name for cls in classes for name in vars(cls)}
    theirs = set(dir(DockerSpawner))
    made_by_traitlets = {name for name in vars(DockerSpawner) if "trait" in name}
    taken = {
        name
        for name in ours
        if name in theirs
        and not name.startswith("__")
        and name not in made_by_traitlets
        and name not in {"_descriptors", "_instance_inits"}
        and name != "_static_immutable_initial_values"
    }
    assert taken == MEANT


def test_no_attribute_set_on_an_instance_takes_a_name_by_accident() -> None:
    """`start_timeout` is set because ours counts from another moment."""
    theirs = set(dir(DockerSpawner))
    classes = (ConfiguredSpawner, CreatingSpawner, StartingSpawner, GPUDockerSpawner)
    stored = {
        name
        for cls in classes
        for method in vars(cls).values()
        if hasattr(method, "__code__")
        for name in _stored(method.__code__)
    }
    assert stored & theirs == {"start_timeout", "object_id", "user_options"}


def _stored(code: CodeType) -> set[str]:
    """The attributes of anything that a function sets."""
    return {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_ATTR"}
