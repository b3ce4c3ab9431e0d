"""Solids under any light, colour, place, size and turn, in front of pieces of photographs: which solid is it?

Rendered by sphere tracing of signed distances (Hart 1996), with the distance functions of Quilez.
"""

import numpy as np
from numpy.typing import NDArray

from benchmarks.picturesets.photos import lit, photos

SIDE = 32  # pixels
STEPS = 20  # of a ray
TILT = 0.5  # radians: of the camera, at most; objects turn any way about their own upright axis
Points = NDArray[np.float32]  # (N, P, 3)


def _length(*parts: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.sqrt(sum(part * part for part in parts))


def _box(p: Points, *half: float) -> NDArray[np.float32]:
    q = np.abs(p) - np.array(half, np.float32)
    return np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(-1), 0)


def _cylinder(p: Points, radius: float, half: float) -> NDArray[np.float32]:
    across, along = _length(p[..., 0], p[..., 2]) - radius, np.abs(p[..., 1]) - half
    return np.minimum(np.maximum(across, along), 0) + _length(np.maximum(across, 0), np.maximum(along, 0))


def _torus(p: Points, large: float, small: float) -> NDArray[np.float32]:
    return _length(_length(p[..., 0], p[..., 2]) - large, p[..., 1]) - small


def _cone(p: Points) -> NDArray[np.float32]:
    across = _length(p[..., 0], p[..., 2])
    return np.maximum(0.78 * across + 0.62 * (p[..., 1] - 0.8), -p[..., 1] - 0.6)


def _pyramid(p: Points) -> NDArray[np.float32]:
    across = np.maximum(np.abs(p[..., 0]), np.abs(p[..., 2]))
    return np.maximum(0.75 * across + 0.55 * (p[..., 1] - 0.9), -p[..., 1] - 0.5)


def _cross(p: Points) -> NDArray[np.float32]:
    beams = (_box(p, 0.95, 0.22, 0.22), _box(p, 0.22, 0.95, 0.22), _box(p, 0.22, 0.22, 0.95))
    return np.minimum(beams[0], np.minimum(beams[1], beams[2]))


def _dumbbell(p: Points) -> NDArray[np.float32]:
    end = np.float32([0, 0.7, 0])
    ends = np.minimum(np.linalg.norm(p - end, axis=-1), np.linalg.norm(p + end, axis=-1)) - 0.42
    return np.minimum(ends, _cylinder(p, 0.14, 0.7))


def _stairs(p: Points) -> NDArray[np.float32]:
    low, high = p + np.float32([0, 0.45, 0]), p - np.float32([0.4, 0.05, 0])
    return np.minimum(_box(low, 0.8, 0.25, 0.6), _box(high, 0.4, 0.35, 0.6))


SOLIDS = {
    "ball": lambda p: np.linalg.norm(p, axis=-1) - 0.8,
    "cube": lambda p: _box(p, 0.6, 0.6, 0.6),
    "plate": lambda p: _box(p, 0.85, 0.12, 0.85),
    "beam": lambda p: _box(p, 0.2, 1.0, 0.2),
    "tube": lambda p: np.maximum(_cylinder(p, 0.55, 0.75), 0.4 - _length(p[..., 0], p[..., 2])),
    "cylinder": lambda p: _cylinder(p, 0.5, 0.8),
    "ring": lambda p: _torus(p, 0.7, 0.2),
    "cone": _cone,
    "pyramid": _pyramid,
    "cross": _cross,
    "dumbbell": _dumbbell,
    "stairs": _stairs,
}


def objects(n: int, seed: int):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    names = np.array(list(SOLIDS))[np.arange(n) % len(SOLIDS)]
    pictures = np.empty((n, SIDE, SIDE, 3), np.uint8)
    for name in SOLIDS:
        chosen = np.flatnonzero(names == name)
        for part in np.array_split(chosen, max(1, len(chosen) // 64)):
            pictures[part] = _rendered(name, len(part), rng)
    splits = rng.choice(["train", "validation", "test"], n, p=(0.7, 0.15, 0.15))
    return pictures, names, splits


def _rotations(n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Rotation matrices (n, 3, 3): about the upright axis, then of the camera, forwards and sideways."""
    angles = np.stack([rng.uniform(-np.pi, np.pi, n), rng.uniform(0, TILT, n), rng.uniform(-TILT, TILT, n)])
    (c, ct, cs), (s, st, ss), o, i = np.cos(angles), np.sin(angles), np.zeros(n), np.ones(n)
    turn, tilt, roll = (
        np.array(rows, np.float32).transpose(2, 0, 1)
        for rows in (
            [[c, o, s], [o, i, o], [-s, o, c]],
            [[i, o, o], [o, ct, -st], [o, st, ct]],
            [[cs, -ss, o], [ss, cs, o], [o, o, i]],
        )
    )
    return turn @ tilt @ roll


def _rendered(name: str, n: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    fine = 2 * SIDE
    grid = (np.arange(fine, dtype=np.float32) + 0.5) / fine * 2 - 1
    x, y = (part.ravel() for part in np.meshgrid(grid, grid))
    scale, move = rng.uniform(1.2, 2.0, (n, 1)), rng.uniform(-0.45, 0.45, (2, n, 1))
    turn = _rotations(n, rng)
    p = np.stack([x * scale + move[0], -y * scale + move[1], np.full((n, len(x)), -3.0)], -1).astype(np.float32)
    ray = turn @ np.float32([0, 0, 1])  # in the solid's own axes
    p = np.einsum("nij,npj->npi", turn, p)
    start, far = p.copy(), np.zeros((n, len(x)), np.float32)
    for _ in range(STEPS):
        far += np.clip(SOLIDS[name](start + far[..., None] * ray[:, None]), 0.0, 1.0)
    p = start + far[..., None] * ray[:, None]
    hit = SOLIDS[name](p) < 0.05
    step = np.float32(0.02)
    normal = np.stack(
        [SOLIDS[name](p + step * axis) - SOLIDS[name](p - step * axis) for axis in np.eye(3, dtype=np.float32)], -1
    )
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
    light = rng.standard_normal((n, 1, 3)).astype(np.float32)
    light /= np.linalg.norm(light, axis=-1, keepdims=True)
    light = np.where((light * ray[:, None]).sum(-1, keepdims=True) > 0, -light, light)
    shade = rng.uniform(0.25, 0.5, (n, 1)) + 0.7 * np.maximum((normal * light).sum(-1), 0)
    colour = rng.uniform(40, 255, (n, 1, 3))
    solid = shade[..., None] * colour
    made = np.where(hit[..., None], solid, _backgrounds(n, fine, rng).reshape(n, -1, 3))
    made = made.reshape(n, SIDE, 2, SIDE, 2, 3).mean((2, 4))
    return np.stack([lit(one, rng, 0.6) for one in made])


def _backgrounds(n: int, side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Pieces of photographs of any size and tint (n, side, side, 3)."""
    sources = list(photos().values())
    made = []
    for _ in range(n):
        photo = sources[rng.integers(len(sources))]
        size = int(rng.uniform(0.15, 0.7) * min(photo.size))
        left, top = rng.integers(photo.width - size), rng.integers(photo.height - size)
        piece = photo.resize((side, side), box=(left, top, left + size, top + size))
        made.append(np.asarray(piece, np.float32)[:, :: rng.choice([-1, 1]), rng.permutation(3)])
    return np.stack(made)
