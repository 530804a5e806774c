"""Proximal policy optimisation with action masks on ``quartermaster/JobOrdering-v0``, in one file.

    python examples/ppo_single_file.py                       # five minutes, jobs drawn from a model
    python examples/ppo_single_file.py --backfill --seed 1 --seconds 600

The policy scores every queued job by the same small network, so it does not care how many wait or
in which order they are shown. It begins as "shortest job first" and is judged, every few updates,
on windows of jobs that it never trains on, beside the best of the simple rules there. Nothing here
is used by the rest of the package: copy the file and change it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents import Windows, evaluate_policy, evaluate_rule
from envs import JOB_ORDERING, RewardConfig, WindowSplit, lublin_feitelson
from envs.config import EnvConfig

FEATURES = JOB_ORDERING.schema.queue  # what is known of a queued job, by name
GLOBALS = JOB_ORDERING.schema.globals  # and of the cluster
RULES = ("sjf", "f1", "fcfs")  # whom to beat


@dataclass
class Args:
    """Every setting is an option of the command line."""

    seed: int = 0
    seconds: float = 300.0  # of training; validation counts, drawing jobs does not
    backfill: bool = False  # whether jobs may overtake the chosen one if they do not delay it
    jobs: int = 200_000  # of the trace: 60 % to train on, 20 % to validate, 20 % never touched
    updates: int = 10_000  # at most
    rows: int = 256  # clusters side by side
    steps: int = 64  # decisions of each between two updates
    batch: int = 2048
    epochs: int = 3
    rate: float = 3e-3  # of learning; it falls to a tenth of this
    discount: float = 0.98
    trace_decay: float = 0.95  # lambda of the generalised advantage estimate
    clip: float = 0.2
    value_weight: float = 0.5
    most_gradient: float = 0.5  # its norm is cut there
    hidden: int = 32
    gain: float = 10.0  # of the scores, so that weights of the order of one decide
    prior: float = -2.0  # initial weight of a job's run time: at shortest job first
    averaging: float = 0.95  # what is validated is a moving average of the weights
    validate_every: int = 10
    windows: int = 32  # to validate on, 1,024 jobs each


class Choices(NamedTuple):
    """The legal actions of B states, N in all, state after state."""

    vectors: Tensor  # [N, F]
    counts: Tensor  # [B] legal actions of each state
    around: Tensor  # [B, G] the cluster
    states: Tensor  # [N] state of each action
    first: Tensor  # [B] first action of each state

    @classmethod
    def of(cls, vectors: Tensor, counts: Tensor, around: Tensor) -> Choices:
        """Number states and actions."""
        states = torch.repeat_interleave(torch.arange(len(counts)), counts)
        return cls(vectors, counts, around, states, torch.cumsum(counts, 0) - counts)

    @classmethod
    def seen(cls, observation: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]) -> Choices:
        """The queued jobs of an observation: masks allow the first so many of a window."""
        vectors = torch.from_numpy(observation["queue"][mask])
        counts = torch.from_numpy(mask.sum(axis=1))
        return cls.of(vectors, counts, torch.from_numpy(observation["global"].copy()))

    def some(self, picked: Tensor) -> Choices:
        """Those of certain states."""
        counts = self.counts[picked]
        states = torch.repeat_interleave(torch.arange(len(picked)), counts)
        within = torch.arange(len(states)) - (torch.cumsum(counts, 0) - counts)[states]
        return Choices.of(
            self.vectors[self.first[picked][states] + within], counts, self.around[picked]
        )


class Agent(nn.Module):
    """Actor and critic; both see a set."""

    def __init__(self, args: Args) -> None:
        super().__init__()
        width, around, hidden = len(FEATURES), len(GLOBALS), args.hidden
        self.gain = args.gain
        self.linear = nn.Linear(width, 1, bias=False)
        self.mine, self.ours = nn.Linear(width, hidden), nn.Linear(around, hidden, bias=False)
        self.inner, self.out = nn.Linear(hidden, hidden), nn.Linear(hidden, 1, bias=False)
        self.each = nn.Linear(width, hidden)
        self.pooled = nn.Linear(2 * hidden + around, 64)
        self.value = nn.Linear(64, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.linear.weight[0, FEATURES.index("log_request")] = args.prior

    def scores(self, choices: Choices) -> Tensor:
        """Unnormalised log-probabilities of all actions, [N]."""
        hidden = torch.relu(self.mine(choices.vectors) + self.ours(choices.around)[choices.states])
        network = self.out(torch.relu(self.inner(hidden)))
        return self.gain * (self.linear(choices.vectors) + network).squeeze(1)

    def log_chances(self, choices: Choices) -> Tensor:
        """A softmax over the actions of each state, [N]."""
        scores = self.scores(choices)
        most = torch.segment_reduce(scores.detach(), "max", lengths=choices.counts)
        shifted = scores - most[choices.states]
        total = torch.zeros(len(most)).index_add(0, choices.states, shifted.exp())
        return shifted - total.log()[choices.states]

    def values(self, choices: Choices) -> Tensor:
        """What is still to come from each state, [B]."""
        hidden = torch.relu(self.each(choices.vectors))
        total = torch.segment_reduce(hidden, "sum", lengths=choices.counts)
        most = torch.segment_reduce(hidden, "max", lengths=choices.counts)
        summary = torch.cat((torch.log1p(total), most, choices.around), dim=1)
        return self.value(torch.tanh(self.pooled(summary))).squeeze(1)


def highest(values: Tensor, choices: Choices) -> Tensor:
    """The action of the highest value in each state, numbered among all; of equals the first."""
    most = torch.segment_reduce(values, "max", lengths=choices.counts)
    hits = (values == most[choices.states]).nonzero().squeeze(1)
    _, where = np.unique(choices.states[hits].numpy(), return_index=True)
    return hits[torch.from_numpy(where)]


class Greedy:
    """A trained actor as evaluation plays it."""

    name = "ppo_single_file"

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def actions(
        self, observation: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """The job of the highest score in each row."""
        choices = Choices.seen(observation, mask)
        with torch.inference_mode():
            best = highest(self.agent.scores(choices), choices) - choices.first
        return best.numpy()


class Rollout(NamedTuple):
    """What T steps of E rows came to; states are numbered step after step."""

    choices: Choices
    taken: Tensor  # [T * E] action, numbered among those of its state
    log_chance: Tensor  # [T * E]
    advantage: Tensor  # [T * E]
    target: Tensor  # [T * E] of the critic


def collect(agent: Agent, rows: Any, seen: Any, args: Args) -> tuple[Rollout, Any]:
    """Play ``args.steps`` steps, and say how much better each was than expected."""
    shape = (args.steps, args.rows)
    rewards, over = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    values, log_chances = torch.zeros(shape), torch.zeros(shape)
    taken, parts = torch.zeros(shape, dtype=torch.int64), list[Choices]()
    with torch.inference_mode():
        for t in range(args.steps):
            choices = Choices.seen(seen, seen["action_mask"].astype(np.bool_))
            log_p = agent.log_chances(choices)
            noise = -torch.log(-torch.log(torch.rand(len(log_p)).clamp(1e-20, 1 - 1e-7)))
            chosen = highest(log_p + noise, choices)  # Gumbel noise: a sample of the softmax
            values[t], log_chances[t] = agent.values(choices), log_p[chosen]
            taken[t] = chosen - choices.first
            parts.append(choices)
            seen, rewards[t], ended, cut, _ = rows.step(taken[t].numpy())
            over[t] = np.logical_or(ended, cut)
        last = agent.values(Choices.seen(seen, seen["action_mask"].astype(np.bool_)))
        advantage, running = torch.zeros(shape), torch.zeros(args.rows)
        for t in reversed(range(args.steps)):
            goes_on = 1.0 - torch.from_numpy(over[t])
            delta = torch.from_numpy(rewards[t]) + args.discount * goes_on * last - values[t]
            running = delta + args.discount * args.trace_decay * goes_on * running
            advantage[t], last = running, values[t]
    joined = Choices.of(
        *(torch.cat([getattr(part, name) for part in parts]) for name in Choices._fields[:3])
    )
    target = (advantage + values).flatten()
    rollout = Rollout(joined, taken.flatten(), log_chances.flatten(), advantage.flatten(), target)
    return rollout, seen


def update(agent: Agent, optimizer: torch.optim.Optimizer, rollout: Rollout, args: Args) -> float:
    """Some passes over a rollout; the mean loss of the critic."""
    losses = []
    for _ in range(args.epochs):
        for picked in torch.randperm(len(rollout.taken)).split(args.batch):
            choices = rollout.choices.some(picked)
            log_p = agent.log_chances(choices)[choices.first + rollout.taken[picked]]
            ratio = torch.exp(log_p - rollout.log_chance[picked])
            gain = rollout.advantage[picked]
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            cut = ratio.clamp(1 - args.clip, 1 + args.clip)
            actor = -torch.min(ratio * gain, cut * gain).mean()
            critic = nn.functional.mse_loss(agent.values(choices), rollout.target[picked])
            optimizer.zero_grad()
            (actor + args.value_weight * critic).backward()
            nn.utils.clip_grad_norm_(agent.parameters(), args.most_gradient)
            optimizer.step()
            losses.append(critic.item())
    return float(np.mean(losses))


def judged(agent: Agent, windows: Windows) -> float:
    """Mean bounded slowdown of the jobs of windows under the greedy policy."""
    played = evaluate_policy(Greedy(agent), windows, keep_jobs=0)
    return float(played.values["bounded_slowdown"].mean())


def train(args: Args) -> Iterator[dict[str, float]]:
    """Train; what every validation found, ``ratio`` being the mean slowdown / the best rule's."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    trace = lublin_feitelson(args.jobs, seed=1)
    judging = EnvConfig(backfill=args.backfill, episode_jobs=min(1024, args.jobs // 10))
    split = WindowSplit(len(trace))
    starts = split.starts("validation", args.windows, judging.episode_jobs, 0)
    windows = Windows(trace, judging, starts)
    rules = {r: evaluate_rule(r, windows, 0).values["bounded_slowdown"].mean() for r in RULES}
    best = min(rules.values())
    rows = gymnasium.make_vec(
        "quartermaster/JobOrdering-v0", args.rows, "vector_entry_point",
        trace=trace, part="train", backfill=args.backfill, skip_forced=True,
        reward=RewardConfig(reference="sjf"), autoreset_mode="SameStep", copy=False,
    )  # fmt: skip
    agent, average = Agent(args), Agent(args)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.rate, eps=1e-5)
    seen, _ = rows.reset(seed=args.seed)
    begun, played, spent = time.monotonic(), 0, 0.0
    for k in range(args.updates + 1):
        spent = (time.monotonic() - begun) / args.seconds
        if k % args.validate_every == 0 or spent >= 1.0 or k == args.updates:
            found = judged(average, windows)
            yield {"steps": played, "seconds": spent * args.seconds, "ratio": found / best}
        if spent >= 1.0 or k == args.updates:
            return
        optimizer.param_groups[0]["lr"] = args.rate * max(1.0 - 0.9 * spent, 0.1)
        rollout, seen = collect(agent, rows, seen, args)
        update(agent, optimizer, rollout, args)
        played += args.rows * args.steps
        share = max(1.0 - args.averaging, 1.0 / (k + 2))  # the first ones count alike
        with torch.no_grad():
            for mean, now in zip(average.parameters(), agent.parameters(), strict=True):
                mean.lerp_(now, share)


def main() -> None:
    """Read the settings, train, and say how it goes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for field in fields(Args):
        if field.type == "bool":
            parser.add_argument(f"--{field.name}", action="store_true")
        else:
            kind = {"int": int, "float": float}[str(field.type)]
            parser.add_argument(f"--{field.name}", type=kind, default=field.default)
    lowest = np.inf
    for found in train(Args(**vars(parser.parse_args()))):
        lowest = min(lowest, found["ratio"])
        print(
            f"{found['seconds']:6.0f} s  {found['steps']:9,.0f} steps  mean slowdown "
            f"{found['ratio']:.3f} of the best rule's (lowest so far {lowest:.3f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
