"""Whose servers the gate guards, and what a site allows beyond the plugin's own."""

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gpuspawner.container import HUB, NAME


@dataclass(frozen=True, slots=True)
class Policy:
    """What follows from the deployment's settings.

    Attributes:
        hub_id: Whose containers and volumes may be touched.
        network: The one network that servers join.
        caps: Capabilities that servers may have; the plugin's default is none.
        images: Patterns of images that may be pulled and run; none: any.
        mounts: Sources beside the homes that servers may mount -> may they write.
    """

    hub_id: str
    network: str
    caps: frozenset[str] = frozenset()
    images: tuple[str, ...] = ()
    mounts: tuple[tuple[str, bool], ...] = ()

    def takes_image(self, image: str) -> bool:
        """Return whether this image may be pulled and run."""
        patterns = self.images
        return not patterns or any(fnmatchcase(image, one) for one in patterns)

    def owns(self, labels: object, name: str) -> bool:
        """Return whether a container is this hub's, as `gpuspawner` tells it.

        By its own name, too: who makes an image from a container copies its labels.
        """
        if not isinstance(labels, dict):
            return False
        return labels.get(HUB) == self.hub_id and labels.get(NAME) == name

    def owns_volume(self, found: object) -> bool:
        """Return whether an inspected volume is a plain one of this hub's."""
        if not isinstance(found, dict) or not isinstance(found.get("Labels"), dict):
            return False
        is_plain = found.get("Driver") == "local" and not found.get("Options")
        return bool(is_plain and found["Labels"].get(HUB) == self.hub_id)

    def may_mount(self, source: str, *, writes: bool) -> bool:
        """Return whether the site allows this source for servers."""
        allowed: Collection[tuple[str, bool]] = self.mounts
        return (source, True) in allowed or (not writes and (source, False) in allowed)

    @property
    def container_prefix(self) -> str:
        """What the names of this hub's containers begin with."""
        return f"{self.hub_id}-"

    @property
    def home_prefix(self) -> str:
        """What the names of this hub's volumes begin with."""
        return f"{self.hub_id}-home-"
