"""Write the tables of the documentation site: features, actions, settings, rules, and more.

    python docs/pages.py [--check]

A page under docs/site holds ``<!-- table: NAME -->`` and ``<!-- end of the table -->``; what stands
between is taken from the code: names and formulas from the columns of
``orchestrator/kernels/see/layout.py``, shapes from the environments, terms from ``envs/reward.py``,
settings from ``EnvConfig``. With ``--check`` nothing is written; the exit status is 1 if a page is
not what it should be.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from enum import IntEnum
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Run as a script: the packages are found once the root is on the path.
from envs import AUTOSCALING, CLUSTER, JOB_ORDERING, METRICS, PLACEMENT, EnvConfig, reward
from envs.gym import observation_space
from orchestrator.kernels.see import layout
from orchestrator.kernels.see.layout import HEADS, ActionHead
from orchestrator.scheduling.rules import RULES
from orchestrator.semantics import Semantics

_TABLE = re.compile(r"(<!-- table: ([\w ]+) -->\n).*?(<!-- end of the table -->)", re.DOTALL)
_NODES = 8  # of the cluster whose shapes are shown, where candidates are its nodes

ENVIRONMENTS: Mapping[str, EnvConfig] = {
    "job_ordering": JOB_ORDERING,
    "cluster": CLUSTER,
    "placement": PLACEMENT.for_nodes(_NODES),
    "autoscaling": AUTOSCALING,
}
EVERYTHING = replace(
    CLUSTER,
    encoding="full",
    advice="elastic_srtf",
    fleet=True,
    migrate=True,
    elastics=8,
    services=4,
    capacity_steps=2,
    tenants=4,
    racks=4,
)
"""Cluster-v0 with all that it can show."""
SIZES = replace(CLUSTER, elastics=8, resizing="sizes")
"""Cluster-v0 where elastic jobs are given a size at once."""

_SETS = {
    "queue": "a queued job",
    "global": "the cluster",
    "candidates": "a candidate placement",
    "victims": "a running job that may be preempted or moved",
    "elastics": "a running elastic job",
    "services": "a service",
    "capacity": "a change of the fleet",
    "sizes": "a size that an elastic job may be given",
    "tenants": "a tenant",
    "racks": "a rack",
    "advice": "an action",
}
_HEADS = {
    ActionHead.PLACE: "place job *i* of the window by candidate *k*: action *i* K + *k*",
    ActionHead.PREEMPT: "preempt running job *v*; it is saved, and waits again",
    ActionHead.SHRINK: "give elastic job *e* fewer workers",
    ActionHead.GROW: "give elastic job *e* one more worker",
    ActionHead.RESIZE: "give elastic job *e* size *z*: action *e* Z + *z* of the head",
    ActionHead.MIGRATE: "move running job *v* to a better place",
    ActionHead.SCALE_IN: "give up 1 .. c nodes",
    ActionHead.SCALE_OUT: "order 1 .. c nodes",
    ActionHead.FEWER_REPLICAS: "one replica fewer for service *s*",
    ActionHead.MORE_REPLICAS: "one replica more for service *s*",
    ActionHead.WAIT: "nothing more at this decision point; time goes on",
}


def _rows(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _source(module: Any) -> str:
    return Path(module.__file__).read_text(encoding="utf-8")


def formulas() -> dict[str, dict[str, str]]:
    """What each feature is: by the class of its columns, and its name there.

    From the comments at the columns: formula, unit, range.
    """
    text, found = _source(layout), {}
    lines = text.splitlines()
    for node in ast.parse(text).body:
        if not (isinstance(node, ast.ClassDef) and node.name.endswith("Column")):
            continue
        columns = found.setdefault(node.name, {})
        for entry in node.body:
            if isinstance(entry, ast.Assign) and isinstance(entry.targets[0], ast.Name):
                name = entry.targets[0].id.lower()
                comment = lines[entry.lineno - 1].partition("  # ")[2]
                if not comment and name.startswith("is_"):
                    comment = f"1 if it is the {name[3:].replace('_', ' ')}"
                columns[name] = comment
    return found


def described(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Features of a set with their formulas: the columns of one class after another."""
    found, rest, known = [], list(names), formulas()
    while rest:
        best = max(known, key=lambda owner: _shared(list(known[owner]), rest))
        count = _shared(list(known[best]), rest)
        if count == 0:
            raise SystemExit(f"no columns of {layout.__file__} begin with '{rest[0]}'")
        for name in rest[:count]:
            if not known[best][name]:
                raise SystemExit(
                    f"{best}.{name.upper()} has no formula; write it behind the column in "
                    f"{layout.__file__}"
                )
            found.append((name, known[best][name]))
        rest = rest[count:]
    return found


def _shared(first: list[str], second: list[str]) -> int:
    """How many names two lists have in common at their beginnings."""
    pairs = zip(first, second, strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _features(config: EnvConfig, part: str) -> list[tuple[str, str]]:
    schema = config.schema
    if part == "advice":
        return [(name, f"1 if the rule `{schema.advisor}` would take it") for name in schema.advice]
    return described(schema.globals if part == "global" else getattr(schema, part))


def observation(config: EnvConfig, without: EnvConfig | None = None) -> str:
    """Entries of an observation, and the features of each; but those that another one has, too."""
    space = observation_space(config).spaces
    known = set() if without is None else set(observation_space(without).spaces)
    entries = [(f"`{n}`", str(list(b.shape)), str(b.dtype)) for n, b in space.items()]
    parts = [] if without is not None else [_rows(("entry", "shape", "type"), entries)]
    for name in space:
        part = "global" if name in ("global", "globals") else name
        if part == "action_mask":
            continue
        features = _features(config, part)
        if name in known and without is not None:
            before = {feature for feature, _ in _features(without, part)}
            features = [pair for pair in features if pair[0] not in before]
        if features:
            more = "more " if name in known else ""
            title = f"**`{name}`**, {more}features of {_SETS.get(part, f'one of the {part}')}:"
            table = _rows(("feature", "what it is"), [(f"`{n}`", text) for n, text in features])
            parts += [title, table]
    return "\n\n".join(parts)


def actions(config: EnvConfig) -> str:
    """Heads of actions: their numbers, and what they do."""
    rows = []
    for head in config.schema.actions.heads:
        if head.size > 0:
            sizes = " x ".join(HEADS[head.kind].sizes)
            numbers = f"{head.offset} .. {head.offset + head.size - 1}"
            about = _HEADS.get(head.kind, f"one of `{sizes}`")
            rows.append((f"`{head.name}`", numbers if head.size > 1 else str(head.offset), about))
    return _rows(("head", "actions", "what it does"), rows)


def parameters(owner: type) -> dict[str, str]:
    """What the parameters of a class are, from its docstring."""
    text = inspect.cleandoc(owner.__doc__ or "")
    section = re.search(r"\nParameters\n-+\n(.*?)(?=\n\n\w+\n-+\n|\Z)", text, re.DOTALL)
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", section.group(1) if section else ""):
        head, _, body = entry.partition("\n")
        names = head.partition(" : ")[0]
        for name in names.split(", "):
            found[name] = " ".join(body.split())
    return found


def _value(value: Any) -> str:
    if isinstance(value, IntEnum):
        return f"`{value.name.lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(each.name.lower() for each in value)}]`"
    if isinstance(value, reward.RewardConfig):
        return f"`{dict(value.terms)}`"
    return f"`{value}`"


def _words(text: str) -> str:
    """A docstring's words without references that only Python resolves."""
    return re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text).replace("``", "`")


def settings(config: EnvConfig) -> str:
    """Settings of an environment with their values, those that are not the plain ones first."""
    texts = parameters(EnvConfig) | parameters(Semantics)
    plain = EnvConfig()
    rows = []
    for field in fields(EnvConfig):
        value, usual = getattr(config, field.name), getattr(plain, field.name)
        rows.append((value == usual, (f"`{field.name}`", _value(value), _words(texts[field.name]))))
    ordered = [row for _, row in sorted(rows, key=lambda pair: pair[0])]
    return _rows(("setting", "value", "what it is"), ordered)


def documented(module: Any, constant: str) -> dict[str, str]:
    """What the keys of a constant are, from the text below it: a name, and indented what it is."""
    body = ast.parse(_source(module)).body
    for node, after in pairwise(body):
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and target.id == constant and isinstance(after, ast.Expr):
            text = inspect.cleandoc(str(ast.literal_eval(after.value)))
            entries = re.findall(r"^(\w[\w, ]*)\n((?:    .*\n?)+)", text, re.MULTILINE)
            return {
                n: " ".join(about.split()) for names, about in entries for n in names.split(", ")
            }
    raise SystemExit(f"{module.__file__}: '{constant}' has no text below it")


def rewards() -> str:
    """Terms of rewards."""
    texts, rows = documented(reward, "TERMS"), []
    for name, (metric, sign) in reward.TERMS.items():
        how = "earned" if sign < 0 else "charged"
        kind = "a potential" if name in reward.POTENTIALS else "grows"
        rows.append((f"`{name}`", _words(texts[name]), how, f"`{metric.name}`, {kind}"))
    return _rows(("term", "what it counts, and its unit", "", "metric"), rows)


def metrics() -> str:
    """Metrics of reports and of ``info["episode_metrics"]``."""
    from envs import outcomes

    texts = documented(outcomes, "METRICS")
    grouped: dict[str, list[str]] = {}
    for name in METRICS:
        grouped.setdefault(texts[name], []).append(name)
    rows = [
        (", ".join(f"`{n}`" for n in ns), "more" if METRICS[ns[0]] > 0 else "less", _words(text))
        for text, ns in grouped.items()
    ]
    return _rows(("metric", "better is", "what it is"), rows)


def rules() -> str:
    """Rules by name, field by field."""
    rows = []
    for rule in RULES.values():
        more = [name for name in ("blocking", "reservation", "elastic") if getattr(rule, name)]
        parts = (rule.key.name, rule.placement.name, rule.preemption.name)
        rows.append((f"`{rule.name}`", *(part.lower() for part in parts), ", ".join(more)))
    return _rows(("rule", "sorts by", "places by", "preempts", "and"), rows)


def workloads() -> str:
    """Configs of workloads: what the comment at their head says."""
    rows = []
    for path in sorted((ROOT / "conf" / "workload").glob("*.yaml")):
        comment = re.match(r"(?:#.*\n)+", path.read_text(encoding="utf-8"))
        if comment is None:
            raise SystemExit(f"{path} has no comment at its head that says what it is")
        text = " ".join(line.lstrip("# ") for line in comment.group().splitlines())
        rows.append((f"`workload={path.stem}`", text))
    return _rows(("config", "what it is"), rows)


def planners() -> str:
    """Policies that plan in Python."""
    from agents.evaluation import play

    texts = documented(play, "ZOO")
    return _rows(("policy", "what it is"), [(f"`{n}`", _words(texts[n])) for n in play.ZOO])


def tables() -> dict[str, Callable[[], str]]:
    """What can stand between marks, by name."""
    found: dict[str, Callable[[], str]] = {
        "rewards": rewards,
        "metrics": metrics,
        "rules": rules,
        "workloads": workloads,
        "planners": planners,
        "observation everything": lambda: observation(EVERYTHING, CLUSTER),
        "actions everything": lambda: actions(EVERYTHING),
        "observation sizes": lambda: observation(SIZES, replace(CLUSTER, elastics=8)),
        "actions sizes": lambda: actions(SIZES),
    }
    for name, config in ENVIRONMENTS.items():
        found[f"observation {name}"] = lambda config=config: observation(config)
        found[f"actions {name}"] = lambda config=config: actions(config)
        found[f"settings {name}"] = lambda config=config: settings(config)
    return found


def filled(text: str) -> str:
    """A page with its tables as they are now."""
    known = tables()

    def table(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        if name not in known:
            raise SystemExit(f"there is no table '{name}'; there are {', '.join(known)}")
        return f"{begin}\n{known[name]()}\n\n{end}"

    return _TABLE.sub(table, text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only say whether they are current")
    check: bool = parser.parse_args().check
    status = 0
    for path in sorted((ROOT / "docs" / "site").rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        now = filled(text)
        if not check:
            path.write_text(now, encoding="utf-8")
        elif now != text:
            print(
                f"{path.relative_to(ROOT)} is not current: run python docs/pages.py",
                file=sys.stderr,
            )
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
