"""The doctor's findings, on real servers and on broken inputs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eval import doctor
from eval.doctor import (
    DoctorConfig,
    Finding,
    Level,
    check_carla_root,
    check_disk,
    check_extra,
    check_image,
    check_official_root,
    check_packages,
    check_town_dir,
    check_weights,
)
from eval.doctor_server import check_embedded_server, check_running_server
from eval.server import EmbeddedServer, EmbeddedServerConfig, wheel_version
from eval.vulkan import VulkanError, adapters
from simulator.towns.generate import generate
from tests.faults.runs import DIES, launcher

WEIGHTS = Path(__file__).resolve().parents[2] / "weights" / "raw_refined"
OTHER_DIALECT = {"0.9.15": "0.9.16", "0.9.16": "0.9.15"}


def levels(findings: list[Finding]) -> dict[str, Level]:
    return {finding.what: finding.level for finding in findings}


def test_the_command_says_what_fails_and_what_to_do(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "eval", "doctor", "--server", "127.0.0.1:9", "--out", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and done.stderr == ""
    lines = done.stdout.splitlines()
    failed = next(index for index, line in enumerate(lines) if line.startswith("fail"))
    assert "no CARLA server listens at 127.0.0.1:9" in lines[failed] and "->" in lines[failed + 1]
    assert lines[0].startswith("ok    Python") and lines[-1].startswith("1 of ")


def test_bad_input_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run(DoctorConfig(server="nowhere")) == 2
    assert "--server nowhere" in capsys.readouterr().err


def test_the_embedded_server_is_started_and_its_gnss_read() -> None:
    findings = list(check_embedded_server())
    assert levels(findings) == {"embedded server": Level.OK, "GNSS": Level.OK}
    assert f"as CARLA {wheel_version()}" in findings[1].value


def test_a_running_server_is_looked_at_and_left_running() -> None:
    with EmbeddedServer(EmbeddedServerConfig(town="Gen03", render=False)) as server:
        findings = list(check_running_server(f"127.0.0.1:{server.port}"))
        assert levels(findings) == {"server": Level.OK, "server's towns": Level.WARN, "GNSS": Level.OK}
        assert "Town12" in findings[1].value and findings[1].todo
        assert server.exit_code() is None


def test_a_server_of_another_version_is_named(tmp_path: Path) -> None:
    other = OTHER_DIALECT[wheel_version()]
    with EmbeddedServer(EmbeddedServerConfig(town="Gen03", version=other, render=False)) as server:
        (finding,) = check_running_server(f"127.0.0.1:{server.port}")
    assert finding.level is Level.FAIL and f"speaks CARLA {other}" in finding.value


def test_town_folders(tmp_path: Path) -> None:
    assert check_town_dir(tmp_path / "none").level is Level.FAIL
    assert check_town_dir(tmp_path).level is Level.FAIL
    (tmp_path / "Town01.xodr").write_text(generate(3))
    found = check_town_dir(tmp_path)
    assert found.level is Level.WARN and "missing: Town02" in found.value
    for town in doctor.BENCH2DRIVE_TOWNS:
        shutil.copy(tmp_path / "Town01.xodr", tmp_path / f"{town}.xodr") if town != "Town01" else None
    assert check_town_dir(tmp_path).level is Level.OK
    (tmp_path / "Town02.xodr").write_text("<html>404</html>")
    found = check_town_dir(tmp_path)
    assert found.level is Level.FAIL and found.value.startswith("Town02.xodr")


def test_carla_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert [finding.level for finding in check_carla_root(tmp_path / "empty")] == [Level.FAIL]
    root = launcher(tmp_path / "carla", DIES)
    maps = root / "CarlaUE4" / "Content" / "Carla" / "Maps"
    for path in (maps / "OpenDrive" / "Town01.xodr", maps / "Town12" / "OpenDrive" / "Town12.xodr"):
        path.parent.mkdir(parents=True)
        path.write_text(generate(3))
    (root / "VERSION").write_text(f"{wheel_version()}\n")
    found = levels(list(check_carla_root(root)))
    assert found["CARLA"] is Level.OK and found["CARLA's towns"] is Level.WARN
    (root / "VERSION").write_text("0.9.14\n")
    (root / "CarlaUE4.sh").chmod(0o644)
    rows = [finding for finding in check_carla_root(root) if finding.what == "CARLA"]
    assert [row.level for row in rows] == [Level.FAIL, Level.FAIL]
    assert "chmod" in rows[0].todo and "carla==0.9.14" in rows[1].todo


def test_weights_are_checked_by_their_hashes(tmp_path: Path) -> None:
    assert check_weights(WEIGHTS / "agent.yaml").level is Level.OK
    copy = tmp_path / "weights"
    shutil.copytree(WEIGHTS, copy)
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    found = check_weights(copy / "agent.yaml")
    assert found.level is Level.FAIL and "model.safetensors" in found.value
    assert check_weights(tmp_path / "none.yaml").level is Level.FAIL


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_packages(["json", "no_such_package"]).value == "missing: no_such_package"
    assert check_extra("no_such_package", "cluster", "--ray").todo == "pip install '.[cluster]'"
    monkeypatch.setattr(doctor, "DISK_FAIL_BYTES", 1 << 60)
    assert check_disk(tmp_path / "deep" / "runs").level is Level.FAIL
    (tmp_path / "file").write_text("")
    assert "cannot be written" in check_disk(tmp_path / "file" / "runs").value
    monkeypatch.setenv("LEADERBOARD_ROOT", str(tmp_path))
    assert check_official_root("LEADERBOARD_ROOT", "leaderboard/leaderboard_evaluator.py").level is Level.FAIL
    monkeypatch.delenv("LEADERBOARD_ROOT")
    assert check_official_root("LEADERBOARD_ROOT", "leaderboard/leaderboard_evaluator.py").level is Level.OK
    assert check_image("carla:none").level is Level.FAIL  # no SDK, no daemon, or no such image


def test_findings_are_also_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run(DoctorConfig(server="127.0.0.1:9", json=True)) == 1
    rows = json.loads(capsys.readouterr().out)
    assert {row["level"] for row in rows} >= {"ok", "fail"}


def test_vulkan_answers_or_says_why_not() -> None:
    try:
        assert all(isinstance(name, str) for name in adapters())
    except VulkanError as error:
        assert str(error)
