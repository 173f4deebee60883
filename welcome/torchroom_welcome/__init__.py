"""What a student sees about their server: ``from torchroom_welcome import show``.

Importing this package needs the standard library alone; torch and pynvml are looked
for when something is shown, never at import.
"""

__version__ = "0.1.0"
