"""How the images are built. `images/build.py` is the command in front of it."""

from builder import base, hub_image, user_image

IMAGES = ("base", "pytorch", "proxy", "tls", "firewall", "hub")


def build(name: str, *, cuda: bool = False, fresh: bool = False) -> str:
    """Build one image unless nothing changed; return its tag."""
    if name == "base":
        return base.ensure()
    if name == "pytorch":
        return user_image.build(cuda=cuda, fresh=fresh)
    return hub_image.build(name, fresh=fresh)
