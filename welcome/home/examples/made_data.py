"""Data for the examples, made here and now: nothing is downloaded.

A DataLoader's workers import this file, which is why the data sets are not written in
the notebooks themselves.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

# The ten digits on a grid of 5 x 7 points.
GLYPHS = """
.###. ..#.. .###. ##### ...#. ##### ..##. ##### .###. .###.
#...# .##.. #...# ...#. ..##. #.... .#... ....# #...# #...#
#...# ..#.. ....# ..#.. .#.#. ####. #.... ...#. #...# #...#
#...# ..#.. ...#. ...#. #..#. ....# ####. ..#.. .###. .####
#...# ..#.. ..#.. ....# ##### ....# #...# .#... #...# ....#
#...# ..#.. .#... #...# ...#. #...# #...# .#... #...# ...#.
.###. .###. ##### .###. ...#. .###. .###. .#... .###. .##..
"""


def make_digits(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Handwriting of a kind: images (count, 1, 28, 28) in 0..1, labels (count,).

    Every digit is turned, slanted, scaled, moved, drawn with a pen of its own width,
    and photographed in bad light. The same seed gives the same images.
    """
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=random)
    images = torch.empty(count, 1, 28, 28)
    glyphs = _glyphs()
    for part in torch.arange(count).split(10_000):  # a part at a time saves memory
        images[part] = _draw(glyphs[labels[part]], random)
    return images, labels


def _glyphs() -> Tensor:
    rows = [line.split() for line in GLYPHS.split("\n") if line]
    dots = [[[c == "#" for c in row[digit]] for row in rows] for digit in range(10)]
    small = torch.tensor(dots, dtype=torch.float32).unsqueeze(1)
    large = F.interpolate(small, size=(20, 14), mode="bicubic").clamp(0, 1)
    return F.pad(large, (7, 7, 4, 4))


def _draw(glyphs: Tensor, random: torch.Generator) -> Tensor:
    count = len(glyphs)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=random)

    angle, slant = between(-0.3, 0.3), between(-0.4, 0.4)
    wide, tall = between(0.85, 1.35), between(0.85, 1.35)
    cos, sin = angle.cos(), angle.sin()
    across = torch.stack([wide * cos, slant - sin, between(-0.25, 0.25)], 1)
    down = torch.stack([sin, tall * cos, between(-0.2, 0.2)], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), (count, 1, 28, 28), False)
    ink = F.grid_sample(glyphs, grid, align_corners=False)
    pen = between(0.5, 1.4).view(-1, 1, 1, 1)  # a wide pen also reaches the neighbours
    blurred = F.avg_pool2d(ink, 3, stride=1, padding=1)
    noise = 0.15 * torch.randn(ink.shape, generator=random)
    light = between(0.0, 0.3).view(-1, 1, 1, 1)
    return (blurred * pen * 1.6 + light + noise).clamp(0, 1)


class Shapes(Dataset):
    """Colour pictures, (3, 32, 32) in 0..1, of one of six shapes on a busy ground.

    Picture ``i`` is drawn when it is asked for, always the same for the same seed, so
    any number of workers together make the same data set.
    """

    names = ("disc", "ring", "square", "frame", "triangle", "cross")

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        label = int(torch.randint(len(self.names), (1,), generator=random))
        x, y, size, angle, *colours = torch.rand(10, generator=random).tolist()
        mask = _shape(
            self.names[label],
            x=0.5 * x - 0.25,
            y=0.5 * y - 0.25,
            size=0.35 + 0.35 * size,
            angle=math.tau * angle,
        )
        paint = torch.tensor(colours[:3]).view(3, 1, 1)
        ground = (paint + 0.5) % 1  # the other side of the colour range: it contrasts
        blotches = torch.rand(3, 5, 5, generator=random)
        busy = F.interpolate(blotches[None], size=(32, 32), mode="bilinear")[0]
        noise = 0.08 * torch.randn(3, 32, 32, generator=random)
        picture = torch.where(mask, paint, 0.6 * ground + 0.4 * busy) + noise
        return picture.clamp(0, 1), label


def _shape(name: str, x: float, y: float, size: float, angle: float) -> Tensor:
    """True where the shape is, on a square from -1 to 1."""
    points = torch.linspace(-1, 1, 32)
    v, u = torch.meshgrid(points - y, points - x, indexing="ij")
    cos, sin = math.cos(angle), math.sin(angle)
    u, v = (cos * u + sin * v) / size, (cos * v - sin * u) / size
    radius, box = (u * u + v * v).sqrt(), torch.maximum(u.abs(), v.abs())
    if name == "disc":
        return radius < 1
    if name == "ring":
        return (radius < 1) & (radius > 0.55)
    if name == "square":
        return box < 0.85
    if name == "frame":
        return (box < 0.9) & (box > 0.5)
    if name == "triangle":
        return (v > -0.6) & (v + 1.732 * u.abs() < 1.1)
    return (torch.minimum(u.abs(), v.abs()) < 0.3) & (box < 1)
