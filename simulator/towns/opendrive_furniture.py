"""OpenDRIVE text of what stands and lies at junctions: stop lines, zebra crossings, lights, signs and their phases."""

from collections.abc import Iterable

from simulator.towns.opendrive_text import tag

FIRST_OBJECT_ID = 9000
FIRST_CONTROLLER_ID = 5000
ZEBRA_M = (1.2, 4.2)
"""A zebra crossing lies this far behind the stop line, inside the junction."""
ZEBRA_BEYOND_ASPHALT_M = 0.6
STOP_LINE_BEFORE_END_M = 0.3
REFERENCE_S_M = 0.2
"""Where on a connecting road its traffic light or sign holds."""
PLATE_HEIGHT_M = 2.4
"""Height of a sign's plate; the signal of a light stands for the foot of its post, as in CARLA's towns."""
SIGNAL_TYPES = {"light": 1000001, "stop": 206, "yield": 205}
SIGNAL_NAMES = {"light": "Signal_3Light_Post01", "stop": "Sign_Stop", "yield": "Sign_Yield"}


def stop_line(identity: int, s_m: float, inbound_sign: int, width_m: float) -> str:
    """A stop line across inbound lanes of a width in all, on the side of the reference line that the sign tells."""
    return tag(
        "object", id=identity, name="StopLine", s=s_m, t=inbound_sign * width_m / 2.0, zOffset=0.0, hdg=1.570796327,
        roll=0.0, pitch=0.0, orientation="none", type=-1, width=0.0, length=width_m,
    )  # fmt: skip


def zebra(identity: int, s_m: float, inwards: float, asphalt_left_m: float, asphalt_right_m: float) -> str:
    """A crosswalk just inside the junction, across the whole arm; `inwards`: 1 along the reference line, else -1."""
    near_m, far_m = (inwards * edge for edge in ZEBRA_M)
    left_m, right_m = asphalt_left_m + ZEBRA_BEYOND_ASPHALT_M, -asphalt_right_m - ZEBRA_BEYOND_ASPHALT_M
    corners = ((near_m, left_m), (near_m, right_m), (far_m, right_m), (far_m, left_m), (near_m, left_m))
    outline = tag("outline", "".join(tag("cornerLocal", u=u, v=v, z=0.0) for u, v in corners))
    return tag(
        "object", outline, id=identity, name="SimpleCrosswalk", s=s_m, t=0.0, zOffset=0.0, hdg=0.0, roll=0.0, pitch=0.0,
        orientation="none", type="crosswalk", width=ZEBRA_M[1] - ZEBRA_M[0], length=left_m - right_m,
    )  # fmt: skip


def signal_tag(kind: str, identity: int, s_m: float, t_m: float, heading_offset_rad: float) -> str:
    """A `light`, a `stop` or a `yield` sign beside its road."""
    light = kind == "light"
    return tag(
        "signal", tag("validity", fromLane=0, toLane=0), name=SIGNAL_NAMES[kind], id=identity, s=s_m, t=t_m,
        zOffset=0.0 if light else PLATE_HEIGHT_M, hOffset=heading_offset_rad, roll=0.0, pitch=0.0, orientation="+",
        dynamic="yes" if light else "no", country="OpenDRIVE", type=SIGNAL_TYPES[kind], subtype=-1, value=-1, text="",
        height=1.16 if light else 1.0, width=0.52 if light else 0.97,
    )  # fmt: skip


def signal_reference(identity: int) -> str:
    """On a connecting road: the signal that its traffic obeys."""
    validity = tag("validity", fromLane=-1, toLane=-1)
    return tag("signalReference", validity, id=identity, s=REFERENCE_S_M, t=0.0, orientation="+")


def controllers(phases: Iterable[Iterable[int]], first_id: int) -> tuple[list[str], str]:
    """A controller per phase (lights that are green together) of a junction, and the junction's references to them."""
    written, references = [], ""
    for sequence, phase in enumerate(phases):
        identity = first_id + sequence
        controls = "".join(tag("control", signalId=light, type="") for light in phase)
        written.append(tag("controller", controls, name=f"ctrl{identity}", id=identity, sequence=sequence))
        references += tag("controller", id=identity, type="", sequence=sequence)
    return written, references
