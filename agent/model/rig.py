"""Camera rigs: where the cameras sit, and how points of the BEV frame project into their images.

Two frames are used here. `ego`: x forward, y left, z up. `bev`: x right, y forward, z up, the axes of a nuScenes lidar
and of the official BEVFormer grid (row along +y, column along +x). They differ by a quarter turn and by the origin.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CameraMount:
    """A level pinhole camera with square pixels, principal point in the image centre. Pose in the ego frame."""

    name: str
    x_m: float
    y_m: float
    z_m: float
    yaw_rad: float
    """Viewing direction, counter-clockwise from straight ahead."""
    fov_rad: float
    """Horizontal field of view over the full image width."""

    def image_from_camera(self, width_px: int, height_px: int) -> np.ndarray:
        """Intrinsics (3, 3) for camera axes x right, y down, z forward."""
        focal_px = 0.5 * width_px / math.tan(0.5 * self.fov_rad)
        return np.array([[focal_px, 0.0, 0.5 * width_px], [0.0, focal_px, 0.5 * height_px], [0.0, 0.0, 1.0]])

    def camera_from_ego(self) -> np.ndarray:
        """Rigid transform (4, 4) from the ego frame to camera axes x right, y down, z forward."""
        c, s = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        rotation = np.array([[s, -c, 0.0], [0.0, 0.0, -1.0], [c, s, 0.0]])
        transform = np.eye(4)
        transform[:3, :3] = rotation
        transform[:3, 3] = -rotation @ (self.x_m, self.y_m, self.z_m)
        return transform


@dataclass(frozen=True)
class CameraRig:
    """Cameras in the order the network sees them."""

    mounts: tuple[CameraMount, ...]

    def lidar2img(
        self, width_px: int, height_px: int, bev_origin_ego_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    ) -> np.ndarray:
        """Projections (cameras, 4, 4), float64: homogeneous BEV point [m] -> (u depth, v depth, depth, 1) in pixels.

        bev_origin_ego_m: origin of the BEV frame in the ego frame; the default puts the grid on the ego origin.
        """
        ego_from_bev = np.eye(4)
        ego_from_bev[:3, :3] = [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
        ego_from_bev[:3, 3] = bev_origin_ego_m
        projections = []
        for mount in self.mounts:
            image_from_camera = np.eye(4)
            image_from_camera[:3, :3] = mount.image_from_camera(width_px, height_px)
            projections.append(image_from_camera @ mount.camera_from_ego() @ ego_from_bev)
        return np.stack(projections)


def _mount(name: str, x_m: float, y_m: float, yaw_deg: float, fov_deg: float) -> CameraMount:
    return CameraMount(name, x_m, y_m, 1.60, math.radians(yaw_deg), math.radians(fov_deg))


BENCH2DRIVE_RIG = CameraRig(
    (
        _mount("CAM_FRONT", 0.80, 0.0, 0.0, 70.0),
        _mount("CAM_FRONT_LEFT", 0.27, 0.55, 55.0, 70.0),
        _mount("CAM_FRONT_RIGHT", 0.27, -0.55, -55.0, 70.0),
        _mount("CAM_BACK", -2.0, 0.0, 180.0, 110.0),
        _mount("CAM_BACK_LEFT", -0.32, 0.55, 110.0, 70.0),
        _mount("CAM_BACK_RIGHT", -0.32, -0.55, -110.0, 70.0),
    )
)
"""Bench2Drive's six cameras. Source: its data collection agent; lateral positions and yaws mirrored to y left."""

BENCH2DRIVE_LIDAR_EGO_M = (-0.39, 0.0, 1.84)
"""Origin of Bench2Drive's lidar frame in the ego frame: the BEV origin of models trained on its annotations."""
