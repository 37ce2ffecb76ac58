"""What happens where bodies touch: they are pushed apart and exchange momentum. Frame and units: see `bodies`.

Contacts are looked for along the way that the bodies took in the last step, so that fast or thin ones do not pass
through each other. Impulses are those of rigid boxes with little restitution and dry friction, shared by masses.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray

from simulator.bodies import BODY_DTYPE, PROP, VEHICLE, WALKER, Bodies, Floats
from simulator.collisions import PAIRS_PER_BOX, Contacts, contact_point, find_pairs, meeting
from simulator.grid import NOTHING, Grid

RESTITUTION: Final = 0.1
"""Car bodies crumple: crash tests at city speeds give 0.1 to 0.2."""
FRICTION: Final = 0.4
"""Sheet metal on sheet metal."""
PASSES: Final = 4
"""How often the impulses are worked through, for bodies that touch several others."""
CONTACT_SLOP_M: Final = 0.01
"""Penetration left in place so that resting contact is still seen in the next step."""
GROUND_CLEARANCE_M: Final = 0.2
"""Vehicles pass over props lower than this."""
_Met: TypeAlias = tuple[NDArray[np.int64], Floats, Floats, Floats]
"""Pairs of bodies with normal, depth and how long ago they met."""


def collide(bodies: Bodies, count: int, standing: Grid = NOTHING) -> tuple[Contacts, Floats]:
    """Find the bodies among the first `count` slots that met in the last step, part them and exchange momentum.

    Pairs of which neither can move are left out, and bodies that lean on `standing` things without moving. Returns
    the contacts (indices are slots; `count` + k, always the second of a pair, is the k-th standing thing) and the
    impulses, (k, 3) in N s on the first body of each pair.
    """
    rows = bodies.rows[:count]
    size = PAIRS_PER_BOX * count
    while True:
        pairs, normal, depth, ago = np.empty((size, 2), np.int64), np.empty((size, 2)), np.empty(size), np.empty(size)
        found = _find_movable(rows, pairs, normal, depth, ago)
        if found <= size:
            break
        size = found
    met = pairs[:found], normal[:found], depth[:found], ago[:found]
    hits = _find_standing(rows, standing)
    if len(hits[0]):
        return _collide_with_standing(bodies, rows, standing, met, hits)
    pairs, normal, depth, ago = met
    point, impulse = np.empty((found, 3)), np.zeros((found, 3))
    if found:
        _respond(rows, bodies.last_step_s, pairs, normal, depth, ago, point, impulse)
    return Contacts(pairs, normal, depth, point), impulse


def _collide_with_standing(
    bodies: Bodies, rows: NDArray, standing: Grid, met: _Met, hits: _Met
) -> tuple[Contacts, Floats]:
    """As `collide`, with standing things as further bodies that nothing moves."""
    struck, place = np.unique(hits[0][:, 1], return_inverse=True)
    fixed = np.zeros(len(struck), BODY_DTYPE)
    for name, row in zip(("x", "y", "z", "yaw", "half_length", "half_width", "half_height"), standing.box, strict=True):
        fixed[name] = row[struck]
    fixed["kind"], fixed["active"], fixed["collides"] = PROP, True, True
    everything = np.concatenate([rows, fixed])
    local = np.column_stack([hits[0][:, 0], len(rows) + place.ravel()])
    pairs = np.concatenate([met[0], local])
    normal, depth, ago = (np.concatenate(both) for both in zip(met[1:], hits[1:], strict=True))
    point, impulse = np.empty((len(pairs), 3)), np.zeros((len(pairs), 3))
    _respond(everything, bodies.last_step_s, pairs, normal, depth, ago, point, impulse)
    rows[:] = everything[: len(rows)]
    pairs[len(met[0]) :, 1] = len(rows) + hits[0][:, 1]
    return Contacts(pairs, normal, depth, point), impulse


def _find_standing(rows: NDArray, standing: Grid) -> _Met:
    """Pairs (k, 2) of slots and standing things that met in the last step, with normal, depth and ago."""
    size = PAIRS_PER_BOX * len(rows) if len(standing.post) else 0
    while True:
        pairs, normal, depth, ago = np.empty((size, 2), np.int64), np.empty((size, 2)), np.empty(size), np.empty(size)
        found = _meet_standing(rows, standing.arrays, pairs, normal, depth, ago) if size else 0
        if found <= size:
            return pairs[:found], normal[:found], depth[:found], ago[:found]
        size = found


def boxes(bodies: Bodies, count: int) -> tuple[Floats, Floats, Floats, Floats, Floats, Floats, Floats]:
    """(x, y, z, yaw, half_length, half_width, half_height) of the collision boxes, centres in the world.

    The boxes of vehicles begin GROUND_CLEARANCE_M above the wheels.
    """
    out = np.empty((7, count))
    _boxes(bodies.rows[:count], out)
    return out[0], out[1], out[2], out[3], out[4], out[5], out[6]


@numba.njit(cache=True)
def _boxes(rows, out):
    for i in range(rows.shape[0]):
        b = rows[i]
        heading = np.radians(b.yaw)
        lift = min(GROUND_CLEARANCE_M, b.half_height) if b.kind == VEHICLE else 0.0
        out[0, i] = b.x + b.box_forward * np.cos(heading) - b.box_side * np.sin(heading)
        out[1, i] = b.y + b.box_forward * np.sin(heading) + b.box_side * np.cos(heading)
        out[2, i] = b.z + b.box_up + 0.5 * lift
        out[3, i], out[4, i], out[5, i] = b.yaw, b.half_length, b.half_width
        out[6, i] = b.half_height - 0.5 * lift


@numba.njit(cache=True)
def _motions(rows):
    """(2, n) way that each body went in the last step; what is moved from outside did not go there."""
    motion = np.zeros((2, rows.shape[0]))
    for i in range(rows.shape[0]):
        if rows[i].physics:
            motion[0, i], motion[1, i] = rows[i].way_x, rows[i].way_y
    return motion


@numba.njit(cache=True)
def _find_movable(rows, pairs, normal, depth, ago):
    n = rows.shape[0]
    box = np.empty((7, n))
    _boxes(rows, box)
    solid, movable = np.empty(n, np.bool_), np.empty(n, np.bool_)
    for i in range(n):
        solid[i] = rows[i].active and rows[i].collides
        movable[i] = rows[i].physics
    return find_pairs(box, _motions(rows), solid, movable, pairs, normal, depth, ago)


@numba.njit(cache=True)
def _meet_standing(rows, standing, pairs, normal, depth, ago):
    """Fill pairs, normal, depth and ago; returns how many there are, maybe more than there is space for."""
    still, post, origin, first, entries, low_cell, nx, ny, cell_m = standing
    box, motion, found = np.empty((7, rows.shape[0])), _motions(rows), 0
    _boxes(rows, box)
    for i in range(rows.shape[0]):
        b, mx, my = rows[i], motion[0, i], motion[1, i]
        if not (b.active and b.collides and b.physics) or (mx == 0.0 and my == 0.0):
            continue
        heading = np.radians(box[3, i])
        cos, sin = np.cos(heading), np.sin(heading)
        wide = abs(box[4, i] * cos) + abs(box[5, i] * sin)
        deep = abs(box[4, i] * sin) + abs(box[5, i] * cos)
        low_x = int(np.floor((min(box[0, i], box[0, i] - mx) - wide - origin[0]) / cell_m))
        high_x = int(np.floor((max(box[0, i], box[0, i] - mx) + wide - origin[0]) / cell_m))
        low_y = int(np.floor((min(box[1, i], box[1, i] - my) - deep - origin[1]) / cell_m))
        high_y = int(np.floor((max(box[1, i], box[1, i] - my) + deep - origin[1]) / cell_m))
        low_x, low_y, high_x, high_y = max(low_x, 0), max(low_y, 0), min(high_x, nx - 1), min(high_y, ny - 1)
        for u in range(low_x, high_x + 1):
            for v in range(low_y, high_y + 1):
                for entry in range(first[u * ny + v], first[u * ny + v + 1]):
                    k = entries[entry]
                    if max(low_cell[k, 0], low_x) != u or max(low_cell[k, 1], low_y) != v:
                        continue  # seen in an earlier cell
                    if abs(box[2, i] - still[2, k]) > box[6, i] + still[6, k] or (post[k] and b.kind == WALKER):
                        continue
                    turned = np.radians(still[3, k])
                    overlap, x, y, when = meeting(
                        still[0, k] - box[0, i], still[1, k] - box[1, i], mx, my, cos, sin, box[4, i], box[5, i],
                        np.cos(turned), np.sin(turned), still[4, k], still[5, k],
                    )  # fmt: skip
                    if overlap < 0.0:
                        continue
                    if found < pairs.shape[0]:
                        pairs[found, 0], pairs[found, 1] = i, k
                        normal[found, 0], normal[found, 1], depth[found], ago[found] = x, y, overlap, when
                    found += 1
    return found


@numba.njit(cache=True)
def _inverse_mass(b):
    """1/kg; 0 for what stands fast. A walker that a client leads gives way to a car all the same."""
    return 1.0 / b.mass if (b.physics or b.kind == WALKER) and b.mass > 0.0 else 0.0


@numba.njit(cache=True)
def _inverse_inertia(b):
    """Of a homogeneous box about the vertical; walkers do not turn when pushed."""
    if b.kind != VEHICLE:
        return 0.0
    return _inverse_mass(b) * 3.0 / (b.half_length * b.half_length + b.half_width * b.half_width)


@numba.njit(cache=True)
def _push(b, jx, jy, torque, dt):
    """Apply a horizontal impulse (N s) and an angular one (N m s, clockwise seen from above as CARLA's yaw)."""
    dx, dy = jx * _inverse_mass(b), jy * _inverse_mass(b)
    heading = np.radians(b.yaw)
    cos, sin = np.cos(heading), np.sin(heading)
    turn = np.degrees(torque * _inverse_inertia(b))
    b.vx += dx
    b.vy += dy
    b.ax += dx / dt
    b.ay += dy / dt
    if b.kind == WALKER:
        b.push_x, b.push_y = b.vx, b.vy
        return
    b.wz += turn
    b.speed += dx * cos + dy * sin
    b.slide += dy * cos - dx * sin
    b.spin += turn


@numba.njit(cache=True)
def _exchange(a, b, arm, n, bounce, dt, impulse):
    """One impulse between two touching bodies, along the normal and by friction across it; adds to impulse (3,).

    Args: arm (4,) from the centres to the contact point, n (2,) unit normal from a to b.
    """
    ax, ay, bx, by = arm[0], arm[1], arm[2], arm[3]
    nx, ny = n[0], n[1]
    ma, mb, ia, ib = _inverse_mass(a), _inverse_mass(b), _inverse_inertia(a), _inverse_inertia(b)
    wa, wb = np.radians(a.wz), np.radians(b.wz)
    approach = (a.vx - wa * ay - b.vx + wb * by) * nx + (a.vy + wa * ax - b.vy - wb * bx) * ny
    if approach <= 0.0:
        return
    arm_a, arm_b = ax * ny - ay * nx, bx * ny - by * nx
    j = (1.0 + bounce) * approach / (ma + mb + arm_a * arm_a * ia + arm_b * arm_b * ib)
    _push(a, -j * nx, -j * ny, -j * arm_a, dt)
    _push(b, j * nx, j * ny, j * arm_b, dt)
    wa, wb = np.radians(a.wz), np.radians(b.wz)
    sliding = -(a.vx - wa * ay - b.vx + wb * by) * ny + (a.vy + wa * ax - b.vy - wb * bx) * nx
    side_a, side_b = ax * nx + ay * ny, bx * nx + by * ny
    t = sliding / (ma + mb + side_a * side_a * ia + side_b * side_b * ib)
    t = min(max(t, -FRICTION * j), FRICTION * j)
    _push(a, t * ny, -t * nx, -t * side_a, dt)
    _push(b, -t * ny, t * nx, t * side_b, dt)
    impulse[0] += t * ny - j * nx
    impulse[1] -= t * nx + j * ny


@numba.njit(cache=True)
def _part(a, b, n, depth):
    """Move two bodies apart, each by the other's share of the mass; a walker led by a client stays where it is."""
    ma, mb = _inverse_mass(a) if a.physics else 0.0, _inverse_mass(b) if b.physics else 0.0
    led = (a.kind == WALKER and not a.physics) or (b.kind == WALKER and not b.physics)
    if led or ma + mb == 0.0:
        return
    excess = max(depth - CONTACT_SLOP_M, 0.0) / (ma + mb)
    a.x -= excess * ma * n[0]
    a.y -= excess * ma * n[1]
    b.x += excess * mb * n[0]
    b.y += excess * mb * n[1]
    a.settled = b.settled = False


@numba.njit(cache=True)
def _respond(rows, dt, pairs, normal, depth, ago, point, impulse):
    box = np.empty((7, rows.shape[0]))
    _boxes(rows, box)
    motion = _motions(rows)
    arms = np.empty((pairs.shape[0], 4))
    for k in range(pairs.shape[0]):
        first, second = pairs[k, 0], pairs[k, 1]
        contact_point(box, motion, first, second, ago[k], point[k])
        arms[k, 0] = point[k, 0] - box[0, first] + ago[k] * motion[0, first]
        arms[k, 1] = point[k, 1] - box[1, first] + ago[k] * motion[1, first]
        arms[k, 2] = point[k, 0] - box[0, second] + ago[k] * motion[0, second]
        arms[k, 3] = point[k, 1] - box[1, second] + ago[k] * motion[1, second]
    for sweep in range(PASSES):
        for k in range(pairs.shape[0]):
            bounce = RESTITUTION if sweep == 0 else 0.0
            _exchange(rows[pairs[k, 0]], rows[pairs[k, 1]], arms[k], normal[k], bounce, dt, impulse[k])
    for k in range(pairs.shape[0]):
        _part(rows[pairs[k, 0]], rows[pairs[k, 1]], normal[k], depth[k])
