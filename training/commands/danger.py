"""Commands about danger: logs, counterfactual futures, models of risk, refinement and the adapter."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from agent import strict_json
from training import joint
from training.adapter import drive as adapter_drive
from training.adapter import study as adapter_study
from training.adapter import train as adapter_train
from training.closed_loop import agents as closed_loop
from training.closed_loop.drives import ClosedLoopConfig, read_arms
from training.counterfactual import picture as futures_picture
from training.counterfactual import recorder, synthesis
from training.refine import train as refine_train
from training.risk import benchmark as risk_benchmark
from training.risk import train as risk_train
from training.risk.data import FutureSet
from training.studies import page as studies_page


@dataclass(frozen=True, kw_only=True)
class LogEpisodes:
    """Log episodes on any CARLA server for counterfactual replay; drives that are logged already are kept."""

    out: Path
    """Folder of the logs."""
    config: recorder.LogConfig = field(default_factory=recorder.LogConfig)

    def run(self) -> int:
        """Exit code."""
        print(recorder.record(self.config, self.out))
        return 0


@dataclass(frozen=True, kw_only=True)
class Counterfactual:
    """Make futures with other ego motions from logged episodes, with masks and labels; files that exist are kept."""

    logs: tuple[Path, ...]
    """Folders of logs, as log-episodes writes them."""
    out: Path
    """Folder of the futures."""
    config: tyro.conf.OmitArgPrefixes[synthesis.SynthesisConfig] = field(default_factory=synthesis.SynthesisConfig)

    def run(self) -> int:
        """Exit code."""
        print(strict_json.dumps(synthesis.synthesise(self.logs, self.out, self.config), indent=2))
        return 0


@dataclass(frozen=True, kw_only=True)
class FuturesPicture:
    """Draw futures of logged episodes: all ways from a base state, and what would be seen on some of them."""

    config: tyro.conf.OmitArgPrefixes[futures_picture.FuturesPictureConfig]

    def run(self) -> int:
        """Exit code."""
        print(futures_picture.draw(self.config))
        return 0


@dataclass(frozen=True, kw_only=True)
class Risk:
    """Train the arms of the impartial world model on futures; models that exist are kept."""

    futures: tuple[Path, ...]
    """Folders of futures, as counterfactual writes them."""
    out: Path
    """Folder of the run; each arm and seed has its model in it."""
    config: risk_train.RiskTrainConfig = field(default_factory=risk_train.RiskTrainConfig)

    def run(self) -> int:
        """Exit code."""
        for folder in risk_train.train(self.config, FutureSet.read(self.futures), self.out):
            print(folder)
        return 0


@dataclass(frozen=True, kw_only=True)
class RiskBench:
    """Measure how honest models are about danger, on futures in towns that they have not seen."""

    futures: tuple[Path, ...]
    """Folders of futures."""
    models: tuple[Path, ...]
    """Folders of models."""
    out: Path
    """Folder for risk_bench.json and risk_bench.md."""
    config: tyro.conf.OmitArgPrefixes[risk_benchmark.BenchmarkConfig] = field(
        default_factory=risk_benchmark.BenchmarkConfig
    )

    def run(self) -> int:
        """Exit code."""
        print(risk_benchmark.table(risk_benchmark.run(self.futures, self.models, self.out, self.config)))
        return 0


@dataclass(frozen=True, kw_only=True)
class Refine:
    """Refine a raw agent's policy on logged states: it dreams, a critic scores, the better dreams get likelier.

    A run that exists is resumed. `model` in its folder drives.
    """

    logs: tuple[Path, ...]
    """Folders of logs with the agent's states: log-episodes --config.raw AGENT."""
    agent: Path
    """Checkpoint folder of the raw agent."""
    out: Path
    """Folder of the run."""
    critic_model: Path | None = None
    """Folder of a risk model, for the critics expert-only and impartial."""
    config: refine_train.RefineConfig = field(default_factory=refine_train.RefineConfig)

    def run(self) -> int:
        """Exit code."""
        updates = refine_train.refine(self.config, self.logs, self.agent, self.critic_model, self.out)
        print(f"{updates} updates; {self.out / 'model'}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Train an adapter of an agent: plans around its own, and Q-values that judge them; a run is resumed."""

    logs: tuple[Path, ...]
    """Folders of logs with the agent's states: log-episodes --config.raw AGENT."""
    agent: Path
    """Checkpoint folder of the agent."""
    out: Path
    """Folder of the run; `model` in it is what an agent's configuration names."""
    config: adapter_train.AdapterTrainConfig = field(default_factory=adapter_train.AdapterTrainConfig)

    def run(self) -> int:
        """Exit code."""
        updates = adapter_train.train(self.config, self.logs, self.agent, self.out)
        print(f"{updates} updates; {self.out / 'model'}")
        return 0


@dataclass(frozen=True, kw_only=True)
class AdapterStudy:
    """Measure adapters on stored states: single Q-values, candidates, horizons, guidance; the truth comes by replay."""

    logs: tuple[Path, ...]
    """Folders of logs with the agent's states, of towns that the models have not seen."""
    agent: Path
    """Checkpoint folder of the agent."""
    models: tuple[Path, ...]
    """Folders of adapters; several that learned from other shares of the data can be compared."""
    out: Path
    """Folder for adapter_study.json and adapter_study.md."""
    config: adapter_study.StudyConfig = field(default_factory=adapter_study.StudyConfig)

    def run(self) -> int:
        """Exit code."""
        summary = adapter_study.run(self.logs, self.agent, self.models, self.out, self.config)
        print(adapter_study.table(summary))
        return 0


@dataclass(frozen=True, kw_only=True)
class AdapterDrive:
    """Drive routes with and without an adapter, arm by arm, and compare; what has been driven is kept."""

    routes: Path
    """Route file."""
    agent: Path
    """Configuration file of the agent (agent.yaml)."""
    adapter: Path
    """Folder of its adapter."""
    out: Path
    """Folder of the drives, adapter_drive.json and adapter_drive.md."""
    config: adapter_drive.DriveConfig = field(default_factory=adapter_drive.DriveConfig)

    def run(self) -> int:
        """Exit code."""
        summary = adapter_drive.run(self.config, self.routes, self.agent, self.adapter, self.out)
        print(closed_loop.table(summary))
        return 0


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """Drive routes with several agents, as their configuration files say, and compare them with the first; what has
    been driven is kept."""

    routes: Path
    """Route file."""
    agents: str
    """NAME=FILE,NAME=FILE: configuration files (agent.yaml), adapter sections included."""
    out: Path
    """Folder of the drives, closed_loop.json and closed_loop.md."""
    config: ClosedLoopConfig = field(default_factory=ClosedLoopConfig)

    def run(self) -> int:
        """Exit code."""
        print(closed_loop.table(closed_loop.run(self.config, read_arms(self.agents), self.routes, self.out)))
        return 0


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Drive with refinement and adapter on and off: main effects and interaction; what has been driven is kept."""

    base: Path
    """Configuration file of the agent as it was trained (agent.yaml)."""
    refined: Path
    """That of the refined agent: OUT/model/agent.yaml of `refine`."""
    adapter: Path
    """Folder of an adapter of the base agent."""
    in_domain: Path
    """Route file."""
    adversarial: Path
    """Route file."""
    out: Path
    """Folder of the drives, joint.json and joint.md."""
    config: joint.JointConfig = field(default_factory=joint.JointConfig)

    def run(self) -> int:
        """Exit code."""
        sides = joint.Sides(self.base, self.refined, self.adapter)
        files = {"in-domain": self.in_domain, "adversarial": self.adversarial}
        print(joint.table(joint.run(self.config, sides, files, self.out)))
        return 0


@dataclass(frozen=True, kw_only=True)
class Studies:
    """Judge the papers' claims by the results files of a folder, and write one page and one file about all."""

    folder: Path = Path("docs/studies")
    """Where ablation.json, risk_bench.json and the others are; `studies.json` goes there."""
    page: Path = Path("docs/studies.md")

    def run(self) -> int:
        """Exit code."""
        for claim in studies_page.write(self.folder, self.page)["claims"]:
            print(f"{claim['verdict']}: {claim['source']}: {claim['says']}; {claim['evidence'] or '-'}")
        return 0
