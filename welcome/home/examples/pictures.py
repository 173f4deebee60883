"""Pictures without a plotting library: a sheet of images, and a curve.

    from pictures import curve, sheet

Both return something that a notebook displays when it is a cell's last line.
"""

from __future__ import annotations

import html
import math
import struct
import zlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class Picture:
    """Displays itself: a PNG, or an SVG."""

    def __init__(self, *, png: bytes | None = None, svg: str | None = None) -> None:
        self.png, self.svg = png, svg

    def _repr_png_(self) -> bytes | None:
        return self.png

    def _repr_svg_(self) -> str | None:
        return self.svg

    def __repr__(self) -> str:
        return "<picture>"


def sheet(images: Tensor, columns: int = 10, zoom: int = 2) -> Picture:
    """Images (n, 1 or 3, height, width) in 0..1 side by side, as one PNG."""
    images = images.detach().cpu().float()
    images = images.expand(-1, 3, -1, -1)
    rows = max(math.ceil(len(images) / columns), 1)
    missing = rows * columns - len(images)
    images = F.pad(images, (1, 1, 1, 1, 0, 0, 0, missing), value=1.0)
    wide = images.shape[3]
    grid = images.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2)
    grid = grid.reshape(-1, columns * wide, 3)
    grid = grid.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    pixels = (grid.clamp(0, 1) * 255).to(torch.uint8)
    return Picture(png=_png(pixels))


def _png(pixels: Tensor) -> bytes:
    """Encode (height, width, 3) bytes; every line starts with filter type 0."""
    high, wide = pixels.shape[:2]
    lines = b"".join(b"\0" + bytes(line) for line in pixels.flatten(1).tolist())

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(lines)),
            chunk(b"IEND", b""),
        ]
    )


def curve(values: Sequence[float], title: str) -> Picture:
    """Values over steps as a line, lowest and highest written at the side."""
    wide, high, left, top = 480, 140, 60, 28
    low, top_value = min(values), max(values)
    span = (top_value - low) or 1.0
    step = wide / max(len(values) - 1, 1)
    points = " ".join(
        f"{left + i * step:.1f},{top + high * (1 - (value - low) / span):.1f}"
        for i, value in enumerate(values)
    )
    style = 'font-family="sans-serif" font-size="12" fill="#888"'
    side = f'{style} text-anchor="end" x="{left - 6}"'
    return Picture(
        svg=f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + wide + 10}" '
        f'height="{top + high + 10}">'
        f'<text {style} x="{left}" y="16">{html.escape(title)}</text>'
        f'<text {side} y="{top + 10}">{top_value:.3g}</text>'
        f'<text {side} y="{top + high}">{low:.3g}</text>'
        f'<polyline fill="none" stroke="#1e88e5" stroke-width="1.5" '
        f'points="{points}"/></svg>'
    )
