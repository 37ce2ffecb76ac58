"""Pieces of OpenDRIVE text that all writers share."""

from collections.abc import Iterable

from simulator.towns.geometry import LINE_CURVATURE_PER_M, Curve, Pose

GEO_REFERENCE = (
    "+proj=tmerc +lat_0=0 +lon_0=0 +k=1 +x_0=0 +y_0=0 +datum=WGS84 +units=m +geoidgrids=egm96_15.gtx +vunits=m +no_defs"
)


def number(value: float) -> str:
    """A number with nanometre resolution: the same text whatever the last bits of the machine's sine are."""
    text = f"{value:.9f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def tag(element: str, content: str = "", /, **attributes: str | int | float) -> str:
    """An XML element; floats are written by `number`."""
    listed = "".join(f' {k}="{number(v) if isinstance(v, float) else v}"' for k, v in attributes.items())
    return f"<{element}{listed}>{content}</{element}>" if content else f"<{element}{listed}/>"


def header(poses: Iterable[Pose], name: str) -> str:
    """The header of a town that extends over the poses."""
    places = [(pose.x_m, pose.y_m) for pose in poses]
    xs, ys = zip(*places, strict=True)
    return tag(
        "header", tag("geoReference", f"<![CDATA[{GEO_REFERENCE}]]>"), revMajor=1, revMinor=4, name=name, version=1,
        date="2025-01-01T00:00:00", north=max(ys), south=min(ys), east=max(xs), west=min(xs), vendor="Raw2Drive",
    )  # fmt: skip


def plan_view(curve: Curve) -> str:
    """A road's reference line."""
    content, s_m = "", 0.0
    for segment in curve.segments:
        straight = abs(segment.curvature_per_m) < LINE_CURVATURE_PER_M
        # Twelve digits: an arc's end must meet the next start within a fraction of a millimetre.
        shape = "<line/>" if straight else f'<arc curvature="{segment.curvature_per_m:.12f}"/>'
        start = segment.start
        content += tag(
            "geometry", shape, s=s_m, x=start.x_m, y=start.y_m, hdg=f"{start.heading_rad:.12f}", length=segment.length_m
        )
        s_m += segment.length_m
    return tag("planView", content)
