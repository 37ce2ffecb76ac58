"""The order of the work, how many workers the memory carries, and options of the runner that cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eval.memory import GIB, RESERVE_BYTES, MemoryBudget, available_bytes
from eval.processes import ProcessIdentity, group_members, group_memory_bytes, kill_group
from eval.routes import Route, ScenarioBlock, read_routes, write_routes
from eval.runner import InputError, RunConfig, run
from eval.server import ServerError
from eval.verdict import code_sha256
from eval.work import known_bad, longest_first, make_tasks


def route(name: str, town: str, length_m: float, scenarios: int = 0) -> Route:
    blocks = tuple(ScenarioBlock(f"s{index}", "Accident") for index in range(scenarios))
    return Route(name, town, ((0.0, 0.0, 0.0), (length_m, 0.0, 0.0)), (), blocks)


def test_the_longest_comes_first_and_large_towns_count_double() -> None:
    routes = [route("a", "Town01", 100.0), route("b", "Town12", 60.0), route("c", "Town01", 110.0, scenarios=1)]
    tasks = make_tasks(routes, 2)
    assert [task.key for task in tasks] == [(name, repetition) for repetition in (0, 1) for name in "abc"]
    assert [task.label for task in longest_first(tasks)][:3] == ["c", "c (repetition 1)", "b"]


def test_routes_known_for_trouble_are_named(shared_dir: Path) -> None:
    routes = read_routes(shared_dir / "routes" / "bench2drive" / "bench2drive220.xml")
    assert len(known_bad(routes, ())) == 5
    assert len(known_bad(routes, ["11715"])) == 4
    assert known_bad([route("11715", "Gen03", 100.0)], ()) == []


def test_memory_admits_what_was_measured() -> None:
    free = [RESERVE_BYTES + 7 * GIB]
    budget = MemoryBudget(3 * GIB, lambda: free[0])
    assert budget.admits({}, measured=False)  # one always works
    assert budget.admits({0: 0}, measured=False)  # two of 3 GiB
    assert not budget.admits({0: 0, 1: 0}, measured=False)
    budget.observe(GIB)
    assert budget.admits({0: GIB, 1: GIB}, measured=True)
    free[0] = RESERVE_BYTES + GIB
    assert not budget.admits({0: GIB}, measured=True)  # with a tenth more for a hungrier route
    assert budget.admits({}, measured=True)


def test_memory_of_a_group_is_that_of_all_its_processes() -> None:
    code = "import subprocess, sys, time; b = bytearray(50 << 20); print(1, flush=True); time.sleep(100)"
    twice = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {code!r}]); {code}"
    leader = subprocess.Popen([sys.executable, "-c", twice], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert leader.stdout is not None
    assert [leader.stdout.readline() for _ in range(2)] == ["1\n", "1\n"]
    assert len(group_members(leader.pid)) == 2
    assert 100 << 20 < group_memory_bytes(leader.pid) < 200 << 20
    kill_group(leader.pid)
    assert group_members(leader.pid) == []
    leader.wait()
    leader.stdout.close()
    assert ProcessIdentity.of(leader.pid) is None
    assert 0 < available_bytes() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_hash_of_an_agent_covers_its_package(tmp_path: Path) -> None:
    alone, packaged = tmp_path / "alone" / "entry.py", tmp_path / "package" / "entry.py"
    for path in (alone, packaged):
        path.parent.mkdir()
        path.write_text("A = 1")
        (path.parent / "helper.py").write_text("B = 1")
    (packaged.parent / "__init__.py").write_text("")
    before = [code_sha256(path) for path in (alone, packaged)]
    for path in (alone, packaged):
        (path.parent / "helper.py").write_text("B = 2")
    after = [code_sha256(path) for path in (alone, packaged)]
    assert before[0] == after[0] and before[1] != after[1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"carla_root": Path("none")}, "holds no CarlaUE4.sh"),
        ({"carla_root": Path("none"), "server": "127.0.0.1:9"}, "--server and --carla-root: choose one"),
        ({"gpus": "0,1"}, "--gpus is for"),
        ({"gpus": "a", "carla_image": "carla"}, "--gpus a: expected numbers"),
        ({"skip": "7"}, "--skip 7: no such route"),
        ({"skip": "1"}, "leaves no route"),
        ({"repetitions": 0}, "--repetitions"),
        ({"workers": 0}, "--workers"),
        ({"stall_s": -1.0}, "--stall-s -1.0: must be more than 0"),
        ({"max_wall_s": float("nan")}, "--max-wall-s nan"),
        ({"start_timeout_s": 0.0}, "--start-timeout-s 0.0"),
        ({"seed": -1}, "--seed -1"),
        ({"gpus": "-1", "carla_image": "carla"}, "--gpus -1: adapters are counted from 0"),
        ({"ray_gpus": 0.5}, "--ray-gpus is for"),
        ({"cameras": "other-episode", "cameras_from": Path("none")}, "--cameras-from none: no such folder"),
    ],
)
def test_what_cannot_be_is_told_before_anything_starts(tmp_path: Path, options: dict, expected: str) -> None:
    write_routes([route("1", "Gen03", 100.0)], tmp_path / "routes.xml")
    config = RunConfig(routes=tmp_path / "routes.xml", agent="constant-throttle", out=tmp_path / "run", **options)
    with pytest.raises((InputError, ServerError), match=expected):
        run(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("module", "option", "extra"), [("docker", "--carla-image", "container"), ("ray", "--ray", "cluster")]
)
def test_a_missing_extra_is_one_line_and_exit_code_2(tmp_path: Path, module: str, option: str, extra: str) -> None:
    write_routes([route("1", "Gen03", 100.0)], tmp_path / "routes.xml")
    code = f"import sys; sys.modules[{module!r}] = None\nfrom eval.__main__ import main\nsys.exit(main())"
    command = [sys.executable, "-c", code, "run", "--routes", str(tmp_path / "routes.xml"), option, "x"]
    command += ["--agent", "constant-throttle", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].endswith(f"pip install '.[{extra}]'")


@pytest.mark.parametrize("package", ["eval", "training"])
def test_ctrl_c_while_a_command_is_being_loaded_is_quiet(package: str) -> None:
    code = (
        "import os, signal, sys\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'tyro':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        f"from {package}.__main__ import main\n"
        "sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 130 and not done.stderr
