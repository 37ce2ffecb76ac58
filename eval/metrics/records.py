"""Result files in: checkpoints of leaderboard and Bench2Drive, merged files, our own results.jsonl and results.json.

Such files come from many hands, so nothing but the list of records is taken for granted: what a record lacks or holds
in an odd form is replaced by the harmless reading and told in `Run.notes`.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.results import ResultsError, save_name
from eval.scoring import Infraction, Scoring

MAX_FILE_BYTES = 1 << 30
MAX_RECORDS = 100_000
MAX_LENGTH_M = 1e7
MIN_SPEED = Infraction.MIN_SPEED.value
OUTSIDE_LANES = Infraction.OUTSIDE_ROUTE_LANES.value
_ROUTE_ID = re.compile(r"(?:RouteScenario_?)?(.+?)(?:_rep(\d{1,9}))?")
_COUNTER = re.compile(r"_\d+$")
_PERCENT = re.compile(r"\b\d+\.?\d*%")  # what Bench2Drive's tool looks for
_METRES = re.compile(r"(\d+\.?\d*) met(?:er|re)s")


@dataclass(frozen=True, slots=True)
class RouteResult:
    """One driven route as its file has it; None where the file says nothing usable."""

    route_id: str
    repetition: int
    seed: int | None
    town: str
    scenario_type: str
    save_name: str
    status: str
    infractions: Mapping[str, tuple[str, ...]]
    completion_percent: float | None
    penalty: float | None
    composed_percent: float | None
    length_m: float
    credit_percent: float | None = None
    """Completion that must be exceeded for the traffic signs' credit (our own runs record it)."""
    server: str = ""
    """What the route was driven on, if the file says so: `embedded`, or HOST:PORT of a CARLA."""

    @property
    def key(self) -> tuple[str, int, int | None]:
        """What identifies the drive: route, repetition, seed."""
        return self.route_id, self.repetition, self.seed

    def messages(self, kind: Infraction) -> tuple[str, ...]:
        """The infractions of a kind."""
        return self.infractions.get(kind.value, ())


@dataclass(frozen=True, slots=True)
class Run:
    """One file's records, which were driven with one seed."""

    name: str
    folder: Path
    """Where files named by the records are looked for."""
    results: tuple[RouteResult, ...]
    total_routes: int | None = None
    """How many routes the run was meant to drive, if the file says so."""
    scoring: Scoring | None = None
    """Whose rules the file says it was scored by."""
    notes: tuple[str, ...] = ()
    other_folders: tuple[Path, ...] = ()
    """Further ones, of a run that was driven in shares."""


@dataclass(slots=True)
class _Oddities:
    """What was odd about a file's records, counted."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, where: str) -> None:
        self.counts[what] += 1
        self.first.setdefault(what, where)

    def notes(self, name: str) -> tuple[str, ...]:
        return tuple(
            f"{name}: {what} ({count} times, first in {self.first[what]})" for what, count in self.counts.items()
        )


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs in files or run folders, in order; a file with several seeds gives a run per seed.

    Raises: ResultsError, one line, for what cannot be read or holds no records.
    """
    return [run for runs in read_files(paths) for run in runs]


def read_files(paths: Sequence[Path]) -> list[list[Run]]:
    """As `read_runs`, the runs of each path apart."""
    return [_by_seed(_read(path, name)) for path, name in zip(paths, _short_names(paths), strict=True)]


def join_shares(files: Sequence[Sequence[Run]]) -> list[Run]:
    """All runs of some files. Files without a common route are shares of one evaluation (a job array's) and joined."""
    runs = [run for file in files for run in file]
    routes = [{result.route_id for run in file for result in run.results} for file in files]
    alike = len({(run.scoring, run.total_routes is None) for run in runs}) == 1
    if len(files) < 2 or not alike or sum(map(len, routes)) > len(set().union(*routes)):
        return runs
    by_seed: dict[int | None, list[Run]] = {}
    for run in runs:
        by_seed.setdefault(run.results[0].seed, []).append(run)
    return [_joined(shares) for shares in by_seed.values()]


def _joined(shares: Sequence[Run]) -> Run:
    totals = [run.total_routes for run in shares if run.total_routes is not None]
    return replace(
        shares[0],
        name=f"{shares[0].name} and {len(shares) - 1} more" if len(shares) > 1 else shares[0].name,
        results=tuple(result for run in shares for result in run.results),
        total_routes=sum(totals) if totals else None,
        notes=(*(note for run in shares for note in run.notes), f"{len(shares)} files without a common route: one run"),
        other_folders=tuple(run.folder for run in shares[1:]),
    )


def percentage(message: str) -> float | None:
    """The percentage in an infraction's message."""
    found = _PERCENT.search(message)
    value = float(found.group()[:-1]) if found else math.nan
    return value if math.isfinite(value) else None


def metres(message: str) -> float:
    """The metres in a message about driving outside the lanes; 0 if it names none."""
    found = _METRES.search(message)
    value = float(found.group(1)) if found else 0.0
    return value if value <= MAX_LENGTH_M else 0.0


def _short_names(paths: Sequence[Path]) -> list[str]:
    """File names, with as much of their folders as it takes to tell them apart."""
    for parts in range(1, 8):
        names = ["/".join(path.parts[-parts:]) or str(path) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{path} ({index})" for index, path in enumerate(paths, start=1)]


def _read(path: Path, name: str) -> Run:
    if path.is_dir():
        lines, derived = path / "results.jsonl", path / "results.json"
        if lines.is_file():
            return _with_total(_read_lines(lines, name), derived, name)
        if derived.is_file():
            return _read(derived, name)
        raise ResultsError(f"{path}: holds neither results.jsonl nor results.json; give a run's folder or a file")
    if path.suffix == ".jsonl":
        return _with_total(_read_lines(path, name), path.with_suffix(".json"), name)
    return _from_document(_parse(_text(path), str(path)), path, name)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ResultsError(f"{path}: more than {MAX_FILE_BYTES >> 20} MiB, which no results file has")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path}: not a text file (byte {error.start} is not UTF-8); give a results file") from error
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read ({error.strerror}); give a results file or folder") from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{error.msg.lower()} at line {error.lineno} column {error.colno}"
        raise ResultsError(f"{where}: not JSON ({place}); it may have been cut off while it was written") from error
    except (RecursionError, ValueError) as error:
        raise ResultsError(f"{where}: not a results file ({type(error).__name__})") from error


def _from_document(document: Any, path: Path, name: str) -> Run:
    """The run in a parsed checkpoint, with or without its outer layer."""
    outer = document if isinstance(document, Mapping) else {}
    checkpoint = outer.get("_checkpoint", outer)
    records = checkpoint.get("records") if isinstance(checkpoint, Mapping) else None
    if not isinstance(records, list):
        raise ResultsError(f"{path}: no list at _checkpoint.records; give a results file of the leaderboard's layout")
    odd = _Oddities()
    evaluation = _mapping(outer.get("evaluation"))
    details = evaluation.get("routes")
    details = details if isinstance(details, list) and len(details) == len(records) else [{}] * len(records)
    results = _results(records, [_mapping(detail) for detail in details], odd, path)
    progress = checkpoint.get("progress")
    total = _whole(progress[1]) if isinstance(progress, list) and len(progress) == 2 else None
    if total is not None and not 0 <= total <= MAX_RECORDS:
        odd.add(f"progress of {total:.6g} routes was ignored", "the checkpoint")
        total = None
    return Run(name, path.parent, results, total, _scoring(evaluation.get("scoring")), odd.notes(name))


def _read_lines(path: Path, name: str) -> Run:
    """The run of a results.jsonl; of several records of the same drive the last one holds."""
    odd = _Oddities()
    records: dict[Any, Mapping[str, Any]] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        try:
            record = _mapping(_parse(line, path.name)) if line.strip() else {}
        except ResultsError:
            record = {}
            odd.add("a line that is not JSON was left out", f"line {number}")
        if "route_id" in record:
            records[str(record["route_id"]), str(record.get("repetition")), str(record.get("seed"))] = record
    listed = list(records.values())
    scorings = {record.get("scoring") for record in listed if isinstance(record.get("scoring"), str)}
    if len(scorings) > 1:
        raise ResultsError(
            f"{path}: its records were scored by {', '.join(sorted(map(str, scorings)))}; split the file"
        )
    results = _results(listed, listed, odd, path)
    return Run(name, path.parent, results, None, _scoring(next(iter(scorings), None)), odd.notes(name))


def _with_total(run: Run, derived: Path, name: str) -> Run:
    """The run with its number of routes taken from the results.json beside it, if there is one that can be read."""
    try:
        total = _read(derived, name).total_routes
    except ResultsError:
        return run
    return replace(run, total_routes=total)


def _results(
    records: Sequence[Any], details: Sequence[Mapping[str, Any]], odd: _Oddities, path: Path
) -> tuple[RouteResult, ...]:
    if len(records) > MAX_RECORDS:
        raise ResultsError(f"{path}: {len(records)} records, at most {MAX_RECORDS} are read")
    results = []
    for index, (record, detail) in enumerate(zip(records, details, strict=True)):
        if not isinstance(record, Mapping):
            odd.add("a record that is not an object was left out", f"record {index}")
            continue
        results.append(_result(record, detail, odd, index))
    if not results:
        raise ResultsError(f"{path}: holds no route records; give the results of a run that drove at least one route")
    for (route_id, repetition, seed), count in Counter(result.key for result in results).items():
        if count > 1:
            where = f"route {route_id} repetition {repetition}" + ("" if seed is None else f" seed {seed}")
            odd.add("a drive is recorded more than once; each counts, as in the official tools", where)
    return tuple(results)


def _result(record: Mapping[str, Any], detail: Mapping[str, Any], odd: _Oddities, index: int) -> RouteResult:
    found = _ROUTE_ID.fullmatch(str(record.get("route_id", f"record{index}")))
    route_id, repetition = (found.group(1), found.group(2)) if found else (f"record{index}", None)
    where = f"route {route_id}"
    if not found or "route_id" not in record:
        odd.add("a record without a route id", f"record {index}")
    scores, meta = _mapping(record.get("scores")), _mapping(record.get("meta"))
    provenance = {**_mapping(record.get("provenance")), **detail}
    status = record.get("status")
    if not isinstance(status, str):
        odd.add("a record without a status counts as failed", where)
    return RouteResult(
        route_id=route_id,
        repetition=int(repetition) if repetition else _whole(record.get("repetition")) or 0,
        seed=_whole(record.get("seed", detail.get("seed"))),
        town=str(record.get("town_name") or record.get("town") or ""),
        scenario_type=_scenario_type(record, provenance),
        save_name=_save_name(record),
        status=status if isinstance(status, str) else "",
        infractions=_infractions(record.get("infractions"), odd, where),
        completion_percent=_bounded(scores, "score_route", 100.0, odd, where),
        penalty=_bounded(scores, "score_penalty", 1.0, odd, where),
        composed_percent=_bounded(scores, "score_composed", 100.0, odd, where),
        length_m=_length_m(meta.get("route_length", record.get("route_length_m")), odd, where),
        credit_percent=_number(provenance.get("junction_credit_percent")),
        server=str(provenance.get("server") or ""),
    )


def _scenario_type(record: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """Type of the route's first scenario; official files have its name, which carries a counter (`Accident_1`)."""
    scenarios = provenance.get("scenarios")
    first = _mapping(scenarios[0]) if isinstance(scenarios, list) and scenarios else {}
    name = record.get("scenario_name")
    return str(first.get("type") or (_COUNTER.sub("", name) if isinstance(name, str) else ""))


def _save_name(record: Mapping[str, Any]) -> str:
    """Folder of the drive's metric_info.json; the lines of results.jsonl do not repeat it."""
    if "format" in record:
        return save_name(str(record["route_id"]), str(record.get("town")), _whole(record.get("seed")) or 0)
    return str(record.get("save_name") or "")


def _infractions(value: Any, odd: _Oddities, where: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, Mapping):
        odd.add("a record without infractions counts as free of them", where)
        return {}
    infractions = {}
    for kind, messages in value.items():
        if isinstance(messages, list):
            infractions[str(kind)] = tuple(str(message) for message in messages)
        elif messages:
            odd.add(f"{kind} is not a list; read as one infraction", where)
            infractions[str(kind)] = (str(messages),)
    return infractions


def _bounded(scores: Mapping[str, Any], key: str, highest: float, odd: _Oddities, where: str) -> float | None:
    """A score in [0, highest]; the allowance is for rounding."""
    value = _number(scores.get(key))
    if value is None:
        odd.add(f"{key} is missing or not a number", where)
        return None
    if not 0.0 <= value <= highest:
        odd.add(f"{key} outside [0, {highest:g}], moved to the nearer end", where)
        return min(max(value, 0.0), highest)
    return value


def _length_m(value: Any, odd: _Oddities, where: str) -> float:
    length_m = _number(value)
    if length_m is None or not 0.0 <= length_m <= MAX_LENGTH_M:
        odd.add("a record without a usable route length counts no kilometres", where)
        return 0.0
    return length_m


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number == int(number) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _scoring(value: Any) -> Scoring | None:
    return Scoring(value) if value in [scoring.value for scoring in Scoring] else None


def _by_seed(run: Run) -> list[Run]:
    seeds = sorted({result.seed for result in run.results}, key=lambda seed: (seed is not None, seed or 0))
    if len(seeds) < 2:
        return [run]
    total = None if run.total_routes is None else math.ceil(run.total_routes / len(seeds))
    runs = []
    for seed in seeds:
        own = tuple(result for result in run.results if result.seed == seed)
        notes = run.notes if seed == seeds[0] else ()
        runs.append(replace(run, name=f"{run.name} seed {seed}", results=own, total_routes=total, notes=notes))
    return runs
