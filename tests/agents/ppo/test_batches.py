"""Packing legal actions, against its twin in plain Python."""

from __future__ import annotations

import numpy as np
import pytest

from agents.ppo.batches import ActionPacker
from orchestrator.scheduling.schema import ActionLayout, FeatureSchema
from tests.agents.ppo.states import NAMES, Observation, session_of, visit


def _vector(schema: FeatureSchema, seen: Observation, b: int, action: int) -> list[float]:
    """What is known of one action: [queued job | candidate | victim | head], zeros elsewhere."""
    layout = schema.actions
    parts = {
        "queue": [0.0] * len(schema.queue),
        "candidates": [0.0] * len(schema.candidates),
        "victims": [0.0] * len(schema.victims),
    }
    heads = [head for head in layout.heads if head.size > 0]
    for head in heads:
        index = action - head.offset
        if not 0 <= index < head.size:
            continue
        mine = [float(head is other) for other in heads]
        if head.name == "place":
            parts["queue"] = seen["queue"][b, index // layout.candidates].tolist()
            if schema.candidates:
                parts["candidates"] = seen["candidates"][b, index].tolist()
        elif head.name == "preempt":
            parts["victims"] = seen["victims"][b, index].tolist()
        return [x for part in parts.values() for x in part] + (mine if len(heads) > 1 else [])
    raise AssertionError(f"no such action: {action}")


@pytest.mark.parametrize("name", NAMES)
def test_packing_equals_its_twin(name: str) -> None:
    session = session_of(name)
    packer = ActionPacker(session.schema)
    heads = set()
    for seen in visit(session, 60):
        mask = seen["action_mask"].astype(bool)
        packed = packer.pack(seen, mask)
        rows = [(b, int(a)) for b in range(len(mask)) for a in np.flatnonzero(mask[b])]
        assert packed.counts.tolist() == mask.sum(axis=1).tolist()
        assert packed.actions.tolist() == [a for _, a in rows]
        expected = [_vector(session.schema, seen, b, a) for b, a in rows]
        np.testing.assert_array_equal(packed.vectors, np.array(expected, np.float32))
        assert packed.vectors.shape[1] == packer.width
        heads |= {session.schema.actions.describe(a).split()[0] for _, a in rows}
    assert heads == {h.name for h in session.schema.actions.heads if h.size > 0}


def test_rows_without_legal_actions_are_empty() -> None:
    session = session_of("cluster")
    packer = ActionPacker(session.schema)
    seen = next(visit(session, 1))
    mask = seen["action_mask"].astype(bool)
    mask[1] = False
    packed = packer.pack(seen, mask)
    assert packed.counts[1] == 0
    assert len(packed.vectors) == packed.counts.sum() == mask.sum()
    nothing = packer.pack(seen, np.zeros_like(mask))
    assert nothing.vectors.shape == (0, packer.width)


def test_width_does_not_depend_on_the_window() -> None:
    session = session_of("cluster")
    schema = session.schema
    wider = FeatureSchema(schema.encoding, ActionLayout(99, 7, 31, can_wait=True))
    assert ActionPacker(wider).width == ActionPacker(schema).width
