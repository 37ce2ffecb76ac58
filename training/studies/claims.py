"""What the papers claim, and the rule by which each claim is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from training.studies import rules
from training.studies.rules import Finding, Summary


@dataclass(frozen=True, slots=True)
class Claim:
    """Something a paper says, and when it counts as replicated here."""

    source: str
    says: str
    rule: str
    study: str = ""
    """Name of the results file it is judged by; empty for what cannot be tested here."""
    judge: Callable[[Summary], Finding] | None = None


def _adapter_claims(base: str) -> list[Claim]:
    drives, states = f"adapter_{base}_adversarial", f"adapter_{base}_study"
    who = f"MPA, {base} agent"
    return [
        Claim(
            who,
            "it drives better where it is dangerous",
            "HD-score at least +10 on adversarial routes, interval above 0, not more drives with a collision",
            drives,
            partial(rules.better_without_more_collisions, 10.0),
        ),
        Claim(
            who,
            "and where it has not been",
            "at least +5 on unseen maps, likewise",
            f"adapter_{base}_unseen",
            partial(rules.better_without_more_collisions, 5.0),
        ),
        Claim(
            who,
            "diffusion proposes better than chance",
            "HD-score above random plans with the same Q-values, interval above 0",
            drives,
            rules.diffused_above_random,
        ),
        Claim(
            who,
            "Q-values pick better than chance",
            "random pick loses HD-score against it, interval below 0",
            drives,
            partial(rules.arm_below, "random_pick", "full", "hd_score"),
        ),
        Claim(
            who,
            "it comes near to the best of its plans",
            "at least half of what a geometric pick gains that sees everybody (others straight on)",
            drives,
            rules.half_of_the_best_pick,
        ),
        Claim(
            who,
            "the route's Q-value matters most",
            "leaving it out costs most true return",
            states,
            rules.route_matters_most,
        ),
        Claim(
            who,
            "more candidates help",
            "true gain rises up to 20 and does not fall at 64",
            states,
            rules.more_candidates_help,
        ),
    ]


CLAIMS = [
    Claim(
        "Raw2Drive, Table 6",
        "without a decoder the raw model fails",
        "the arm loses at least 15 points of driving score, interval above 0",
        "ablation",
        partial(rules.arm_falls, "no_decoder", 15.0),
    ),
    Claim(
        "Raw2Drive, Table 7",
        "aligning e alone is not enough",
        "loses at least 15 points, likewise",
        "ablation",
        partial(rules.arm_falls, "embed_only", 15.0),
    ),
    Claim(
        "Raw2Drive, Table 11",
        "the privileged policy has to be fine-tuned",
        "used as it is, it loses at least 8 points",
        "ablation",
        partial(rules.arm_falls, "direct_policy", 8.0),
    ),
    Claim(
        "Raw2Drive, Table 10",
        "the recurrence should begin as the privileged one",
        "a random one loses at least 8 points at equal updates",
        "ablation",
        partial(rules.arm_falls, "random_rssm", 8.0),
    ),
    Claim(
        "Raw2Drive, Table 6",
        "reward and continue heads harm",
        "three heads lose at least 8 points",
        "ablation",
        partial(rules.arm_falls, "three_heads", 8.0),
    ),
    Claim(
        "ours, on Table 6",
        "they harm by their gradients",
        "with stopped gradients nothing is lost",
        "ablation",
        rules.falls_through_gradients,
    ),
    Claim(
        "Raw2Drive, 3.2",
        "both streams should share their samples",
        "independent samples lose points, interval above 0",
        "ablation",
        partial(rules.arm_falls, "independent_sampling", 0.0),
    ),
    Claim(
        "Raw2Drive, Tables 6 to 11",
        "the order of the arms",
        "rank correlation of at least 0.7",
        "ablation",
        rules.same_order,
    ),
    Claim(
        "Raw2Drive, Table 1",
        "driving score 71.36, success 50.24 % on Bench2Drive",
        "needs CARLA and 10M parameters trained on GPUs",
    ),
    Claim(
        "AD-R1",
        "counterfactual data halves false-safe verdicts",
        "false-safe rate at equal alarms at most 0.5 times that of expert data",
        "risk_bench",
        partial(rules.risk_rule, "halved", "ratio", ".2f"),
    ),
    Claim(
        "AD-R1",
        "more than noise does",
        "lower than with noise, interval above 0",
        "risk_bench",
        partial(rules.risk_rule, "below_noise", "less_than_noise", "+.1%"),
    ),
    Claim(
        "AD-R1",
        "without false alarms",
        "at most 3 points more at 0.5",
        "risk_bench",
        partial(rules.risk_rule, "few_more_alarms", "more_alarms", "+.1%"),
    ),
    Claim(
        "AD-R1",
        "an impartial critic makes a safer policy",
        "at most 0.75 times the collisions per km on adversarial "
        "routes, interval below 1, completion at most 3 points less, at least 0.95 times the speed",
        "refinement_adversarial",
        rules.fewer_collisions,
    ),
    Claim(
        "AD-R1",
        "in everyday traffic as well",
        "the same on in-domain routes",
        "refinement_in_domain",
        rules.fewer_collisions,
    ),
    Claim(
        "AD-R1",
        "foreseen outcomes are nearly as good as true ones",
        "at least half of the collisions per km that true labels save, if these save any (interval above 0)",
        "refinement_adversarial",
        rules.half_of_true_labels,
    ),
    Claim(
        "AD-R1",
        "a safer one than an optimistic critic",
        "fewer collisions per km than with the expert-only critic, interval below 0",
        "refinement_adversarial",
        partial(rules.arm_below, "impartial", "expert_only", "collisions_per_km"),
    ),
    Claim("AD-R1", "planning on NAVSIM and nuScenes with occupancy from images", "needs their data and GPUs"),
    *_adapter_claims("raw"),
    *_adapter_claims("clone"),
    Claim("MPA", "HD-score in reconstructed scenes of nuScenes (HUGSIM)", "needs those scenes and a GPU"),
    Claim(
        "ours",
        "refinement and adapter add up",
        "the interval of their interaction in HD-score lies within 5 points of 0",
        "joint",
        rules.effects_add_up,
    ),
]
