"""Policy bundles: one directory with all that it takes to run a trained policy, and to trust it.

=================  ==============================================================================
``manifest.json``  what the policy is: kind, features, actions, how it was trained, versions
``weights.npz``    arrays, or ``weights.pt`` where a kind keeps torch tensors
``card.json``      evaluation card: tables, and the one command that regenerates the bundle
``card.md``        the same for people
=================  ==============================================================================

A bundle appears whole or not at all. Loading one runs no code that the bundle brings: weights are
plain arrays (no pickles), and the loaders of :data:`KINDS` are imported when they are needed, so
that a ranker loads without torch.
"""

from agents.bundle.card import CardTable, EvaluationCard
from agents.bundle.manifest import (
    FORMAT,
    Manifest,
    describe_environment,
    describe_scenario,
    restore_environment,
    scenario_text,
)
from agents.bundle.store import (
    KINDS,
    BundleError,
    load_bundle,
    load_weights,
    read_card,
    read_manifest,
    save_bundle,
    write_card,
)

__all__ = [
    "FORMAT",
    "KINDS",
    "BundleError",
    "CardTable",
    "EvaluationCard",
    "Manifest",
    "describe_environment",
    "describe_scenario",
    "load_bundle",
    "load_weights",
    "read_card",
    "read_manifest",
    "restore_environment",
    "save_bundle",
    "scenario_text",
    "write_card",
]
