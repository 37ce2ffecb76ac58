"""The results files of all studies together, and the page that shows them.

A study is a JSON file that a command of this package wrote, under its name in STUDIES. What is missing is not measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from eval.results import write_json_atomically
from training import joint
from training.ablate_table import markdown as ablation_table
from training.adapter.study import table as adapter_study_table
from training.closed_loop.agents import table as closed_loop_table
from training.risk.benchmark import table as risk_table
from training.studies import pictures
from training.studies.claims import CLAIMS, Claim
from training.studies.pictures import Panel
from training.studies.rules import NOT_MEASURED, NOT_TESTABLE, Finding, Summary

RESULTS = "studies.json"
MAX_BYTES = 64 << 20
Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Study:
    """A results file and its tables."""

    title: str
    table: Callable[[Summary], str]
    panels: Callable[[Summary], list[Panel]]


STUDIES = {
    "ablation": Study("Raw2Drive: guidance, heads and policy", ablation_table, pictures.ablation),
    "risk_bench": Study("AD-R1: risk benchmark", risk_table, pictures.risk),
    **{
        f"refinement_{place}": Study(
            f"AD-R1: refined policies, {place.replace('_', ' ')}", closed_loop_table, pictures.closed_loop
        )
        for place in ("adversarial", "in_domain")
    },
    **{
        f"adapter_{base}_{place}": Study(
            f"MPA: adapter of the {base} agent, {place.replace('_', ' ')}", closed_loop_table, pictures.closed_loop
        )
        for base in ("raw", "clone")
        for place in ("adversarial", "unseen", "in_domain")
    },
    **{
        f"adapter_{base}_study": Study(
            f"MPA: adapter of the {base} agent on stored states", adapter_study_table, pictures.stored_states
        )
        for base in ("raw", "clone")
    },
    "joint": Study("Refinement and adapter together", joint.table, pictures.joint),
}


def read_studies(folder: Path) -> dict[str, Summary]:
    """The results files that are there, by name. Raises: ValueError for one that cannot be read."""
    found = {}
    for name in STUDIES:
        path = folder / f"{name}.json"
        if not path.is_file():
            continue
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path}: is larger than {MAX_BYTES >> 20} MiB; that is no results file")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: is no JSON ({error}); copy the results file again") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path}: holds no object; copy the results file of that study again")
        found[name] = content
    return found


def judged(claim: Claim, studies: Mapping[str, Summary]) -> Finding:
    """What became of a claim. Raises: ValueError for a results file that is not of its study."""
    if claim.judge is None:
        return Finding(NOT_TESTABLE, "")
    if claim.study not in studies:
        return Finding(NOT_MEASURED, "")
    return _of_its_study(claim.study, claim.judge, studies[claim.study])


def _of_its_study(name: str, reader: Callable[[Summary], Read], summary: Summary) -> Read:
    """What is read from a results file. Raises: ValueError when that is another study's, or an older command's."""
    try:
        return reader(summary)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{name}.json: is not what that study's command writes ({error!r}); make it again with the command"
        ) from error


def write(folder: Path, page: Path) -> dict[str, Any]:
    """Write `studies.json` and pictures into the folder of results files, and the page; gives the first's content.

    Raises: ValueError for a file that cannot be read or is not of its study.
    """
    studies = read_studies(folder)
    findings = [(claim, judged(claim, studies)) for claim in CLAIMS]
    summary = {
        "format": 1,
        "claims": [
            {"source": claim.source, "says": claim.says, "rule": claim.rule, "study": claim.study, **asdict(finding)}
            for claim, finding in findings
        ],
        "studies": studies,
    }
    text = _page(findings, studies, folder, page)
    write_json_atomically(folder / RESULTS, summary)
    page.write_text(text, encoding="utf-8")
    return summary


def _page(findings: Sequence[tuple[Claim, Finding]], studies: Mapping[str, Summary], folder: Path, page: Path) -> str:
    lines = [
        "# Studies",
        "",
        "What the papers claim, the rule that was fixed before measuring, and what was found at our reduced scale. "
        "Nothing was driven on CARLA: see each table for the server and the machine. Undecided is what the "
        "interval leaves open: a larger study would tell. Written by `python -m training studies`; all numbers are in "
        f"`{RESULTS}`.",
        "",
        "| source | claim | counts as replicated if | verdict | measured |",
        "|---|---|---|---|---|",
    ]
    for claim, finding in findings:
        lines.append(
            f"| {claim.source} | {claim.says} | {claim.rule} | **{finding.verdict}** | {finding.evidence or '-'} |"
        )
    for name, study in STUDIES.items():
        if name not in studies:
            continue
        lines += ["", f"## {study.title}", "", _of_its_study(name, study.table, studies[name]).strip()]
        picture = folder / f"{name}.png"
        if pictures.draw(_of_its_study(name, study.panels, studies[name]), picture):
            lines += ["", f"![{study.title}]({picture.relative_to(page.parent).as_posix()})"]
    return "\n".join(lines) + "\n"
