"""What the words on the pages mean: for clinicians first, then for those who know the method.

The one place of every explanation: headings, numbers, widgets and columns of tables get it as the help beside
their label, by the words of the label; the Glossary page shows all.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from app.text import Markdown, joined, sentence


@dataclass(frozen=True)
class Term:
    """A word, what it means at the bedside, and what it is in the method's own terms.

    ``said`` is how labels say it, in the singular; empty for the word itself.
    """

    word: str
    plain: str
    technical: str = ""
    said: tuple[str, ...] = ()


GROUPS: dict[str, tuple[Term, ...]] = {
    "The dose": (
        Term(
            "recommended dose",
            "The one dose a policy would give at this visit, after every limit was applied.",
            "Mean over training seeds of the densest dose (mode) of each, held within the limits.",
            ("recommended", "recommends"),
        ),
        Term(
            "sampled dose",
            "A dose drawn from all that the policy could give, by their probability, instead of the one that "
            "it recommends.",
            said=("sampled",),
        ),
        Term(
            "hard limits",
            "The lowest and highest dose that may ever be given. Nothing on any page can override them.",
        ),
        Term(
            "doses it could ever give",
            "Every dose the policy could give to this patient at this visit: an interval with exact ends, or "
            "any dose at all.",
            "The support of the policy's distribution; where it is unbounded, its central 99 % stands in.",
            ("could give", "could ever give", "support", "dose set", "sparse set"),
        ),
        Term(
            "outside the limits",
            "How often the policy, left alone, would ask for a dose beyond the hard limits.",
            "Probability mass beyond the limits, before any clipping; mean over seeds.",
            ("outside the limits", "outside the hard limits"),
        ),
        Term(
            "constant dose",
            "The best single dose for everyone, estimated from the recorded patients. A policy that does no "
            "better is not worth following.",
            "Reward regressed on dose and its square; the comparison is paired by patient.",
        ),
        Term(
            "recorded near this state",
            "Doses that clinicians gave at the recorded visits most like this one.",
            "Lowest and highest dose at the nearest training visits.",
        ),
        Term(
            "mode",
            "The dose a policy holds most likely; the one it recommends.",
            "Point of highest density of its distribution.",
        ),
        Term(
            "half-width",
            "Half of the length of the interval of doses that a policy could give: small is precise.",
        ),
        Term(
            "dose below 0",
            "Synthetic scenarios have doses without a unit, and 0 is no dose. A negative one is as allowed "
            "there as a positive one; no drug is meant.",
        ),
    ),
    "Whether to follow it": (
        Term(
            "status",
            "What the limits say of the dose, and whether following the policy was better, equal or worse "
            "than one constant dose. Amber is a caution, grey is no advice.",
        ),
        Term(
            "deferred",
            "There is a dose, but not as advice: decide without it. The reason stands first.",
            said=("deferred", "deferral"),
        ),
        Term("refused", "There is no dose, because the state or the policy cannot be trusted. Why is said."),
        Term(
            "worth",
            "How much better or worse simulated patients did under the policy than under the constant dose.",
            "Mean difference in return with its 95 % interval, paired by patient.",
            ("worth", "verdict", "against the constant dose", "difference from the constant dose"),
        ),
        Term(
            "disagreement",
            "How far apart the doses are that policies recommend for the same patient; the largest gap of "
            "any visit.",
        ),
        Term(
            "novelty",
            "How unlike all recorded visits this one is. Beyond a threshold the dose is deferred.",
            "Distance to the nearest training visits; the threshold is calibrated on held-out patients.",
            ("novelty", "distance"),
        ),
        Term(
            "interval (95 %)",
            "Where the true number lies, as far as this many patients can tell: in 95 of 100 such studies.",
            said=("95 % interval",),
        ),
    ),
    "The policy": (
        Term(
            "policy",
            "A rule that was learned and turns what is seen of a patient into a dose.",
            said=("policy", "policies"),
        ),
        Term("agent", "The method that learned a policy from recorded visits."),
        Term(
            "distribution (law) of a dose",
            "How likely the policy holds each dose for this patient.",
            "Also called its law; drawn as a density.",
            ("law", "density", "densities", "distribution of the dose"),
        ),
        Term(
            "sparse",
            "Gives doses from one interval with exact ends, and certainly none outside it.",
            "A distribution of bounded support, such as the q-Gaussian with q below 1.",
        ),
        Term(
            "Gaussian",
            "The bell curve: gives every dose some probability, however extreme.",
            "Unbounded; what lies beyond the limits is clipped onto them.",
        ),
        Term(
            "q",
            "How sharply a distribution ends: below 1 it ends exactly, at 1 it is the bell curve, above 1 "
            "its tails are heavy.",
            "Index of the deformed exponential of Tsallis.",
            ("q", "q-Gaussian"),
        ),
        Term(
            "training seed",
            "One of several repetitions of the learning, which differ by chance alone. Seeds that disagree "
            "are a warning.",
            "Seed of the random generator of weights and batches.",
            ("seed",),
        ),
        Term(
            "critic",
            "The policy's own guess of how well a patient will do after a dose. A belief, not a measurement.",
            "Learned estimate of the discounted return, Q(s, a).",
        ),
        Term(
            "belief",
            "What the policy thinks stands behind the noisy measurements, learned from earlier visits.",
            "Posterior of the latent level given the visits so far.",
            ("belief", "believes", "believed"),
        ),
        Term(
            "gate",
            "A check that a model of patients must pass on held-out patients before it may give doses of its "
            "own; else everyone is given the constant dose.",
        ),
        Term(
            "proposal",
            "A wide distribution from which some sparse policies were learned. It gives no doses itself.",
        ),
    ),
    "What was measured": (
        Term(
            "reward",
            "One number for how a single visit went; the scenario's page says how it is counted.",
        ),
        Term("return", "The sum of a patient's rewards over all visits: how well the patient did."),
        Term(
            "discounted return",
            "A return in which later visits count less; what policies are trained for.",
            said=("discounted", "foreseen"),
        ),
        Term(
            "interquartile mean",
            "The mean of the middle half of the training seeds, which no single lucky or failed one moves.",
        ),
        Term(
            "worst patients (CVaR)",
            "The mean return of the patients who did worst, such as the worst 5 %.",
            "Conditional value at risk.",
            ("cvar", "worst 5 %", "worst tenth", "worst outcome"),
        ),
        Term(
            "cost",
            "Counted harm, such as extreme doses or adverse events; never part of the reward.",
            said=("cost", "safety event", "extreme dose"),
        ),
        Term(
            "harm rule",
            "Stops a policy that treats patients while it learns, as soon as their harm exceeds what was "
            "agreed on before.",
        ),
        Term(
            "ceiling",
            "What the best possible treatment would reach, which no clinic can know.",
            "Return of a rule that sees the simulator's inner state.",
        ),
        Term(
            "off-policy evaluation",
            "Judging a policy by recorded visits alone, though others chose the doses there.",
            "Importance weighting, fitted Q evaluation and their combinations.",
            ("off-policy evaluation", "estimator", "estimated return", "cross-validated"),
        ),
        Term(
            "effective sample size (ESS)",
            "How many recorded patients such a judgement really rests on; a few out of many is a warning.",
            "Squared sum of the weights over the sum of their squares.",
            ("effective sample size", "ess", "weights"),
        ),
        Term(
            "time in range",
            "Share of visits at which the measured quantity lay in its target range.",
        ),
    ),
}


def meaning(word: str) -> Markdown:
    """What a word means, as the help beside it.

    Raises:
        KeyError: the glossary has no such word.
    """
    terms = {term.word: term for terms in GROUPS.values() for term in terms}
    return as_text(terms[word])


@functools.lru_cache(maxsize=1024)
def used_in(text: str) -> tuple[Term, ...]:
    """The terms that a text uses, in the order of the glossary."""
    return tuple(term for term, pattern in _patterns() if pattern.search(text))


def explained(*labels: object) -> Markdown | None:
    """What the words of labels mean, each once, as the help beside them; None where none needs it."""
    terms = dict.fromkeys(term for one in labels for term in used_in(str(one)))
    return joined("\n\n", (sentence("**{}**: {}", t.word, as_text(t)) for t in terms)) if terms else None


@functools.cache
def _patterns() -> tuple[tuple[Term, re.Pattern[str]], ...]:
    """How each term is found in a text: as whole words, in the singular or the plural."""
    return tuple(
        (
            term,
            re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, term.said or (term.word,)))})s?(?!\w)", re.I),
        )
        for terms in GROUPS.values()
        for term in terms
    )


def as_text(term: Term) -> Markdown:
    """The explanation of a term."""
    return sentence("{} {}", term.plain, sentence("*{}*", term.technical) if term.technical else "")
