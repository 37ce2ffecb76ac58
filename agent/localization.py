"""Where the car is: speed and gyroscope odometry from the spawn, corrected by gated GNSS and compass.

A small extended Kalman filter with the state (x, y, yaw, speed) in the world frame. Every measurement may be missing.
"""

import math
from dataclasses import dataclass

import numpy as np

from agent.config import ConfigError
from agent.geodesy import Dialect, GeoReference, solve_reference, world_from_geo
from agent.observation import GnssFix, Observation, SensorFault


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalizationConfig:
    """Noise levels (one sigma) and gates."""

    rear_axle_m: float = 1.42
    """Distance from the rear axle to the actor's origin, which slides sideways by this times the yaw rate.
    Source: the bicycle model fitted to CARLA's car by World on Rails."""
    gnss_sigma_m: float = 0.56
    """The leaderboard's GNSS noise of 5e-6 degrees."""
    spawn_sigma_m: float = 0.3
    """How well the first route point tells the start."""
    odometry_sigma: float = 0.1
    """Growth of the position error per square root of a second while driving [m], and a tenth of it at rest."""
    odometry_drift: float = 0.02
    """Error of the uncorrected odometry per metre driven."""
    gyro_sigma_radps: float = 0.002
    """Twice the leaderboard's noise, for the discretisation."""
    missing_gyro_sigma_radps: float = 0.3
    """How fast a car may turn unseen."""
    compass_sigma_rad: float = 0.01
    """CARLA's compass has no noise; this covers the delay of one tick in a turn."""
    accel_sigma_mps2: float = 1.0
    """Error of the speed when it is integrated from the IMU: slopes, mostly."""
    missing_accel_sigma_mps2: float = 3.0
    """How fast an unseen speed may change."""
    gate_sigmas: float = 5.0
    """A measurement further off than this is rejected."""
    compass_gate_rad: float = 0.35
    """The same for the compass, whose sigma is too small to gate by."""
    relocate_s: float = 1.0
    """Rejected measurements that agree with each other for so long are believed."""
    relocate_spread_m: float = 3.0
    """How far rejected fixes may lie from their mean to agree."""

    def __post_init__(self) -> None:
        if self.gnss_sigma_m <= 0.0 or self.spawn_sigma_m <= 0.0:
            raise ValueError("localization.gnss_sigma_m and spawn_sigma_m must be positive")


@dataclass(frozen=True, slots=True)
class Pose:
    """Planar pose in the world frame (metres, radians counter-clockwise)."""

    x_m: float
    y_m: float
    yaw_rad: float

    def to_local(self, points_m: np.ndarray) -> np.ndarray:
        """World points (n, 2) in this pose's frame: x forward, y left."""
        c, s = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        delta = np.asarray(points_m, dtype=np.float64) - (self.x_m, self.y_m)
        return np.stack([c * delta[:, 0] + s * delta[:, 1], c * delta[:, 1] - s * delta[:, 0]], axis=1)

    def moved(self, forward_m: float, left_m: float, turn_rad: float) -> "Pose":
        """This pose after a motion given in its own frame."""
        c, s = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        return Pose(
            self.x_m + c * forward_m - s * left_m,
            self.y_m + s * forward_m + c * left_m,
            wrap_rad(self.yaw_rad + turn_rad),
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the localizer knows after a tick."""

    pose: Pose
    """Best estimate in the world; jumps a little with every fix."""
    odometry: Pose
    """Smooth: never corrected, so differences between ticks are the car's own motion."""
    speed_mps: float
    position_sigma_m: float
    faults: tuple[SensorFault, ...] = ()


MAX_PLAN_RESIDUAL_M = 1.0
"""The GPS plan and the world plan of the leaderboard agree to millimetres; a metre means they are not the same plan."""
DECISION_SEPARATION_M = 5.0
"""GNSS dialects are told apart only where their positions differ by more than this (nine sigma of a fix)."""
DECISION_FIXES = 3


def reference_from_plans(points_m: np.ndarray, geo_rad: np.ndarray) -> GeoReference:
    """The map's geo-reference from the leaderboard's two plans: world (n, 2) [m] and latitude, longitude (n, 2) [rad].

    Raises: ConfigError if no reference makes them the same plan.
    """
    reference, residual_m = solve_reference(points_m, geo_rad)
    if not residual_m < MAX_PLAN_RESIDUAL_M:
        raise ConfigError(
            f"global plan: GPS and world coordinates differ by {residual_m:.3g} m under every known geo-reference "
            f"(limit {MAX_PLAN_RESIDUAL_M} m); set_global_plan must receive the same route twice"
        )
    return reference


class DialectChooser:
    """Decides whether the GNSS sensor speaks CARLA 0.9.15 or 0.9.16, by comparing fixes with dead reckoning."""

    def __init__(self, reference: GeoReference, default: Dialect) -> None:
        self._reference = reference
        self._dialect = default
        self._misfits_m: list[dict[Dialect, float]] = []
        self.decided = False
        self.pending = False
        """The last fix meant two very different places, and which one is not known yet."""

    @property
    def dialect(self) -> Dialect:
        """The dialect in force: the decided one, else the default."""
        return self._dialect

    def position_m(self, fix: GnssFix) -> np.ndarray:
        """World position (2,) of a fix in the dialect in force."""
        return self._position_m(fix, self._dialect)

    def observe(self, fix: GnssFix, dead_reckoned: Pose) -> bool:
        """Weighs one fix; returns whether this one made the decision against the default."""
        if self.decided:
            return False
        positions = {dialect: self._position_m(fix, dialect) for dialect in Dialect}
        separation_m = float(np.linalg.norm(positions[Dialect.CARLA_0_9_15] - positions[Dialect.CARLA_0_9_16]))
        self.pending = separation_m > DECISION_SEPARATION_M
        if not self.pending:
            return False
        here = (dead_reckoned.x_m, dead_reckoned.y_m)
        self._misfits_m.append({d: float(np.linalg.norm(p - here)) for d, p in positions.items()})
        if len(self._misfits_m) < DECISION_FIXES:
            return False
        best = min(Dialect, key=lambda dialect: sum(misfit[dialect] for misfit in self._misfits_m))
        plausible = all(misfit[best] < 0.5 * separation_m for misfit in self._misfits_m)
        self._misfits_m.clear()
        if not plausible:
            return False
        self.decided, self.pending = True, False
        changed = best is not self._dialect
        self._dialect = best
        return changed

    def _position_m(self, fix: GnssFix, dialect: Dialect) -> np.ndarray:
        return np.array(world_from_geo(fix.latitude_rad, fix.longitude_rad, self._reference, dialect))


class Localizer:
    """Extended Kalman filter over (x, y, yaw, speed)."""

    def __init__(self, config: LocalizationConfig, start: Pose, chooser: DialectChooser) -> None:
        self._config = config
        self._chooser = chooser
        self._state = np.array([start.x_m, start.y_m, start.yaw_rad, 0.0])
        self._covariance = np.diag([config.spawn_sigma_m**2, config.spawn_sigma_m**2, 0.1**2, 1.0])
        self._odometry = start
        self._yaw_rate_radps = 0.0
        self._saw_compass = False
        self._rejected_fixes: list[tuple[float, np.ndarray]] = []
        self._rejected_headings: list[tuple[float, float]] = []
        self._clock_s = 0.0
        self._travelled_m = 0.0

    @property
    def dialect(self) -> Dialect:
        """The GNSS dialect in force."""
        return self._chooser.dialect

    def update(self, observation: Observation, elapsed_s: float) -> Estimate:
        """Advances by elapsed_s and takes in the observation made at its end."""
        faults: list[SensorFault] = []
        self._clock_s += elapsed_s
        self._predict(observation, elapsed_s)
        if observation.heading_rad is not None:
            faults += self._correct_heading(observation.heading_rad)
        if observation.gnss is not None:
            faults += self._correct_position(observation.gnss)
        x_m, y_m, yaw_rad, speed_mps = (float(value) for value in self._state)
        sigma_m = math.sqrt(max(self._covariance[0, 0], self._covariance[1, 1], 0.0))
        return Estimate(Pose(x_m, y_m, yaw_rad), self._odometry, speed_mps, sigma_m, tuple(faults))

    def widen(self, gap_s: float) -> None:
        """Notes that the car was unobserved for a while: the next fixes are believed from further off."""
        speed_mps = max(abs(float(self._state[3])), 5.0)
        self._covariance[:2, :2] += np.eye(2) * (speed_mps * min(gap_s, 60.0)) ** 2
        self._covariance[2, 2] += 0.5**2
        self._saw_compass = False

    def _predict(self, observation: Observation, elapsed_s: float) -> None:
        config = self._config
        speed_mps = float(self._state[3])
        if observation.speed_mps is not None:
            next_speed_mps, speed_variance, grown_by = observation.speed_mps, 0.02**2, 0.0
        else:
            has_accel = observation.accel_mps2 is not None
            next_speed_mps = speed_mps + (observation.accel_mps2 or 0.0) * elapsed_s
            sigma = config.accel_sigma_mps2 if has_accel else config.missing_accel_sigma_mps2
            speed_variance, grown_by = float(self._covariance[3, 3]), (sigma * elapsed_s) ** 2
        seen_gyro = observation.yaw_rate_radps is not None
        next_yaw_rate = observation.yaw_rate_radps if observation.yaw_rate_radps is not None else self._yaw_rate_radps
        mean_speed = 0.5 * (speed_mps + next_speed_mps)
        mean_yaw_rate = 0.5 * (self._yaw_rate_radps + next_yaw_rate)
        self._yaw_rate_radps = next_yaw_rate if seen_gyro else 0.9 * next_yaw_rate  # an unseen turn dies out
        turn_rad = mean_yaw_rate * elapsed_s
        forward_m, left_m = mean_speed * elapsed_s, mean_yaw_rate * config.rear_axle_m * elapsed_s
        half = Pose(0.0, 0.0, 0.5 * turn_rad).moved(forward_m, left_m, 0.0)
        self._travelled_m += abs(forward_m)
        self._odometry = self._odometry.moved(half.x_m, half.y_m, turn_rad)
        self._advance_filter(half, turn_rad, next_speed_mps, elapsed_s)
        if observation.speed_mps is not None:  # the speedometer is exact: it replaces the state, not just corrects it
            self._covariance[3, :] = 0.0
            self._covariance[:, 3] = 0.0
        gyro_sigma = config.gyro_sigma_radps if seen_gyro else config.missing_gyro_sigma_radps
        position_sigma = config.odometry_sigma * (1.0 if abs(mean_speed) > 0.1 else 0.1)
        self._covariance += np.diag(
            [position_sigma**2 * elapsed_s, position_sigma**2 * elapsed_s, (gyro_sigma * elapsed_s) ** 2, grown_by]
        )
        if observation.speed_mps is not None:
            self._covariance[3, 3] = speed_variance

    def _advance_filter(self, motion: Pose, turn_rad: float, next_speed_mps: float, elapsed_s: float) -> None:
        x_m, y_m, yaw_rad, _ = (float(value) for value in self._state)
        moved = Pose(x_m, y_m, yaw_rad).moved(motion.x_m, motion.y_m, turn_rad)
        jacobian = np.eye(4)
        jacobian[0, 2] = -(moved.y_m - y_m)
        jacobian[1, 2] = moved.x_m - x_m
        jacobian[0, 3] = math.cos(yaw_rad) * elapsed_s
        jacobian[1, 3] = math.sin(yaw_rad) * elapsed_s
        self._covariance = jacobian @ self._covariance @ jacobian.T
        self._state = np.array([moved.x_m, moved.y_m, moved.yaw_rad, next_speed_mps])

    def _correct_heading(self, heading_rad: float) -> list[SensorFault]:
        config = self._config
        innovation = wrap_rad(heading_rad - float(self._state[2]))
        if not self._saw_compass:
            self._saw_compass = True
            self._turn_to(heading_rad)
            if self._clock_s == 0.0:
                self._odometry = Pose(self._odometry.x_m, self._odometry.y_m, heading_rad)
            return []
        if abs(innovation) > config.compass_gate_rad:
            self._rejected_headings.append((self._clock_s, innovation))
            since_s = self._clock_s - self._rejected_headings[0][0]
            if since_s >= config.relocate_s:
                self._turn_to(heading_rad)
                return []
            return [SensorFault("IMU", f"compass off by {math.degrees(innovation):.0f} degrees, ignored")]
        self._rejected_headings.clear()
        observe = np.array([[0.0, 0.0, 1.0, 0.0]])
        self._correct(observe, np.array([innovation]), np.array([[config.compass_sigma_rad**2]]))
        return []

    def _turn_to(self, heading_rad: float) -> None:
        self._state[2] = wrap_rad(heading_rad)
        self._covariance[2, :] = 0.0
        self._covariance[:, 2] = 0.0
        self._covariance[2, 2] = self._config.compass_sigma_rad**2
        self._rejected_headings.clear()

    def _correct_position(self, fix: GnssFix) -> list[SensorFault]:
        config = self._config
        if self._chooser.observe(fix, self._odometry):
            drift_m = self._config.odometry_drift * self._travelled_m
            self._move_to(np.array([self._odometry.x_m, self._odometry.y_m]), self._config.spawn_sigma_m + drift_m)
        if self._chooser.pending:
            return []
        innovation = self._chooser.position_m(fix) - self._state[:2]
        noise = np.eye(2) * config.gnss_sigma_m**2
        spread = self._covariance[:2, :2] + noise
        if not float(innovation @ np.linalg.solve(spread, innovation)) <= config.gate_sigmas**2:
            return self._reject(innovation)
        self._rejected_fixes.clear()
        observe = np.eye(2, 4)
        self._correct(observe, innovation, noise)
        return []

    def _reject(self, innovation: np.ndarray) -> list[SensorFault]:
        """Ignores a fix that is too far off, unless its like have come for a while and agree with each other."""
        config = self._config
        kept = [item for item in self._rejected_fixes if self._clock_s - item[0] <= 1.5 * config.relocate_s]
        self._rejected_fixes = [*kept, (self._clock_s, innovation)]
        offsets = np.stack([offset for _, offset in self._rejected_fixes])
        mean = offsets.mean(axis=0)
        agrees = float(np.linalg.norm(offsets - mean, axis=1).max()) < config.relocate_spread_m
        if not agrees:
            self._rejected_fixes = self._rejected_fixes[-1:]
        elif self._clock_s - self._rejected_fixes[0][0] >= config.relocate_s:
            self._move_to(self._state[:2] + mean, config.gnss_sigma_m)
            return [SensorFault("GPS", f"moved by {np.linalg.norm(mean):.1f} m after consistent fixes")]
        return [SensorFault("GPS", "position jumped, ignored")]

    def _move_to(self, position_m: np.ndarray, sigma_m: float) -> None:
        self._state[:2] = position_m
        self._covariance[:2, :] = 0.0
        self._covariance[:, :2] = 0.0
        self._covariance[0, 0] = self._covariance[1, 1] = sigma_m**2
        self._rejected_fixes.clear()

    def _correct(self, observe: np.ndarray, innovation: np.ndarray, noise: np.ndarray) -> None:
        gain = self._covariance @ observe.T @ np.linalg.inv(observe @ self._covariance @ observe.T + noise)
        self._state = self._state + gain @ innovation
        self._state[2] = wrap_rad(float(self._state[2]))
        keep = np.eye(4) - gain @ observe
        self._covariance = keep @ self._covariance @ keep.T + gain @ noise @ gain.T


def wrap_rad(angle_rad: float) -> float:
    """The same angle in (-pi, pi]."""
    wrapped = math.remainder(angle_rad, 2.0 * math.pi)
    return math.pi if wrapped <= -math.pi else wrapped
