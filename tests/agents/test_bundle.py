import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents import bundle as store
from agents.bundle import (
    BundleError,
    CardTable,
    EvaluationCard,
    Origin,
    PolicyParts,
    describe_environment,
    load_bundle,
    load_weights,
    read_card,
    read_manifest,
    restore_environment,
    save_bundle,
    write_card,
)
from agents.linear.policy import LinearRanker
from envs.config import CLUSTER, JOB_ORDERING, EnvConfig
from envs.reward import RewardConfig
from orchestrator.errors import SchemaMismatchError
from orchestrator.kernels.see.layout import Resizing
from orchestrator.kernels.see.queue import Encoding

WEIGHTS = np.linspace(-1.0, 1.0, 14).astype(np.float32)
CARD = EvaluationCard(
    "A ranker",
    "python scripts/train.py agent=cma",
    (CardTable("Slowdown", ("policy", "mean", "p"), (("a|b", 1234.5, None), ("c", 1.23456, 7))),),
    ("Trained on synthetic jobs.",),
)


def save(directory, **changes):
    given = {"kind": "linear_ranker", "weights": {"weights": WEIGHTS}, "seed": 7, "card": None}
    given |= changes
    parts = PolicyParts(given["kind"], given["weights"], "my ranker")
    training = {"sigma": np.float64(0.15), "windows": (1, 2)}
    origin = Origin(JOB_ORDERING, given["seed"], training=training)
    return save_bundle(directory, parts, origin, given["card"])


def files(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_bundle_comes_back_as_it_was_saved(tmp_path):
    bundle = save(tmp_path / "deep" / "bundle", card=CARD)
    assert files(bundle) == ["card.json", "card.md", "manifest.json", "weights.npz"]
    manifest = read_manifest(bundle)
    assert (manifest.kind, manifest.name, manifest.seed) == ("linear_ranker", "my ranker", 7)
    assert manifest.training == {"sigma": 0.15, "windows": [1, 2]}
    assert manifest.digest == JOB_ORDERING.schema.digest
    heads = {head["name"]: head["size"] for head in manifest.actions["heads"]}
    assert heads["place"] > 0
    assert sum(heads.values()) == heads["place"]
    assert manifest.versions["numpy"] == np.__version__
    assert restore_environment(manifest.environment) == JOB_ORDERING
    policy = load_bundle(bundle, JOB_ORDERING.schema)
    assert isinstance(policy, LinearRanker)
    assert policy.name == "my ranker"
    assert np.array_equal(policy.weights, WEIGHTS)
    assert read_card(bundle) == EvaluationCard.from_dict(json.loads(json.dumps(CARD.as_dict())))


def test_the_same_policy_gives_the_same_files(tmp_path):
    first, second = save(tmp_path / "a", card=CARD), save(tmp_path / "b", card=CARD)
    for name in files(first):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_torch_tensors_are_loaded_without_running_code(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setitem(store.KINDS, "ppo", f"{__name__}:unused")
    state = {"scorer.weight": torch.arange(6.0).reshape(2, 3), "scorer.bias": torch.zeros(2)}
    bundle = save(tmp_path / "bundle", kind="ppo", weights=state)
    assert files(bundle) == ["manifest.json", "weights.pt"]
    loaded = load_weights(bundle, read_manifest(bundle))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_card_for_people(tmp_path):
    bundle = save(tmp_path / "bundle")
    write_card(bundle, CARD)
    text = (bundle / "card.md").read_text()
    assert "| a\\|b | 1,234 | – |" in text
    assert "| c | 1.235 | 7 |" in text
    assert "- Trained on synthetic jobs." in text
    assert "python scripts/train.py agent=cma" in text
    with pytest.raises(ValueError, match="table 'T': a row has 1 cells"):
        CardTable("T", ("a", "b"), ((1,),))


def test_environments_survive_the_manifest():
    published = EnvConfig(
        encoding=Encoding.PUBLISHED, backfill=True, reward=RewardConfig(reference="sjf")
    )
    for config in (JOB_ORDERING, CLUSTER, published):
        described = json.loads(json.dumps(describe_environment(config)))
        assert restore_environment(described) == config


def test_an_earlier_bundle_is_replaced_whole(tmp_path):
    save(tmp_path / "bundle", card=CARD)
    bundle = save(tmp_path / "bundle", seed=8)
    assert files(bundle) == ["manifest.json", "weights.npz"]
    assert read_manifest(bundle).seed == 8
    assert files(tmp_path) == ["bundle"]


@pytest.mark.parametrize("there_before", [True, False])
def test_a_failure_leaves_everything_as_it_was(tmp_path, monkeypatch, there_before):
    def fail(*_):
        raise OSError("disk full")

    if there_before:
        save(tmp_path / "bundle")
    monkeypatch.setattr(store, "write_card", fail)
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path / "bundle", seed=8, card=CARD)
    assert files(tmp_path) == (["bundle"] if there_before else [])
    if there_before:
        assert read_manifest(tmp_path / "bundle").seed == 7


def test_other_directories_are_not_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="exists and is no bundle; choose another"):
        save(tmp_path)
    assert files(tmp_path) == ["notes.txt"]


def test_another_schema_is_refused_and_the_difference_named(tmp_path):
    bundle = save(tmp_path / "bundle")
    wider = EnvConfig(window=32, backfill=True)
    load_bundle(bundle, wider.schema)  # sizes and semantics are not part of the schema
    with pytest.raises(SchemaMismatchError) as caught:
        load_bundle(bundle, EnvConfig(encoding=Encoding.PUBLISHED).schema)
    text = str(caught.value)
    assert "policy 'my ranker' does not fit" in text
    assert "'encoding' is 'default' in the bundle and 'published' here" in text
    assert "lacks wait, request_time" in text
    with pytest.raises(SchemaMismatchError, match="'heads' of the bundle lacks preempt, wait"):
        load_bundle(bundle, CLUSTER.schema)


def test_an_edited_schema_is_refused(tmp_path):
    bundle = save(tmp_path / "bundle")
    content = json.loads((bundle / "manifest.json").read_text())
    content["features"]["queue"].reverse()
    content["digest"] = "0" * 64
    (bundle / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(SchemaMismatchError, match="'queue' has another order"):
        load_bundle(bundle, JOB_ORDERING.schema)


def damage_manifest(bundle, change):
    path = bundle / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("seed"), "lacks field 'seed'"),
        (lambda c: c.update(extra=1), "has the unknown field 'extra'"),
        (lambda c: c.update(format=99), "has format 99, not 1; use the release"),
        (lambda c: c.update(kind="magic"), "unknown kind 'magic'; known kinds: formula"),
        (lambda c: c.update(weights="../other.npz"), "holds no weights"),
    ],
)
def test_damaged_manifests_are_named(tmp_path, change, message):
    bundle = save(tmp_path / "bundle")
    damage_manifest(bundle, change)
    with pytest.raises(BundleError, match=message):
        load_bundle(bundle)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(BundleError, match=r"manifest\.json: no such file; check the path"):
        load_bundle(tmp_path / "nowhere")
    bundle = save(tmp_path / "bundle")
    with pytest.raises(BundleError, match=r"card\.json: no such file"):
        read_card(bundle)
    (bundle / "card.json").write_text("{}")
    with pytest.raises(BundleError, match=r"card\.json: is no evaluation card"):
        read_card(bundle)
    weights = bundle / "weights.npz"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-40])
    with pytest.raises(BundleError, match=r"weights\.npz: does not have the checksum"):
        load_bundle(bundle)
    damage_manifest(bundle, lambda c: c.update(weights_sha256=store._sha256(weights)))
    with pytest.raises(BundleError, match=r"weights\.npz: cannot be read"):
        load_bundle(bundle)
    weights.unlink()
    with pytest.raises(BundleError, match=r"weights\.npz: holds no weights; the bundle is incompl"):
        load_bundle(bundle)
    (bundle / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match=r"manifest\.json: cannot be read"):
        load_bundle(bundle)


def test_weights_of_another_kind_are_named(tmp_path):
    bundle = save(tmp_path / "bundle", weights={"weights": np.zeros(3, np.float32)})
    with pytest.raises(BundleError, match="does not hold a policy of kind 'linear_ranker'"):
        load_bundle(bundle)


def test_loading_a_ranker_does_not_import_torch(tmp_path):
    bundle = save(tmp_path / "bundle")
    code = (
        "import sys; from agents.bundle import load_bundle; "
        f"load_bundle({str(bundle)!r}); print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize("name", ["cma", "ppo"])
def test_bundles_from_before_sizes_resize_by_steps_and_lock_as_they_did(name):
    manifest = read_manifest(Path(__file__).resolve().parents[2] / "results" / "philly" / name)
    assert not {"resizing", "resize_lock_seconds"} & set(manifest.environment)
    config = restore_environment(manifest.environment)
    assert (config.resizing, config.resize_lock_seconds) == (Resizing.STEPS, None)
    assert config.schema.digest == manifest.digest
    heads = {head["name"]: (head["offset"], head["size"]) for head in manifest.actions["heads"]}
    here = {head.name: (head.offset, head.size) for head in config.schema.actions.heads}
    assert {head: here[head] for head in heads} == heads
    sizes = replace(config, resizing=Resizing.SIZES)
    with pytest.raises(SchemaMismatchError, match="heads"):
        manifest.require(sizes.schema)
