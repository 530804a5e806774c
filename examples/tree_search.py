"""One-step lookahead: every action is tried on a copy, and a rule goes on from there.

The copy knows what will arrive and how long it runs, so this is no policy: it says what planning
could reach. It is never worse than the rule.
"""

import gymnasium
import numpy as np


def best_action(env, simulator, rule):
    """The action after which the rule fares best, of all legal ones."""
    state, found = env.get_state(), {}
    for action in np.flatnonzero(env.action_masks()):
        simulator.set_state(state)
        found[int(action)] = simulator.step(action)[1] + simulator.roll_out(rule)
    return max(found, key=found.get)


def play(seed, rule="sjf", **options):
    """Rewards of an episode: with lookahead, and of the rule alone."""
    env = gymnasium.make("envs:quartermaster/JobOrdering-v0", **options).unwrapped
    env.reset(seed=seed)
    simulator, alone, total, over = env.copy(), env.copy().roll_out(rule), 0.0, False
    while not over:
        _, reward, over, _, _ = env.step(best_action(env, simulator, rule))
        total += reward
    return total, alone


if __name__ == "__main__":
    print("rewards with lookahead, and of the rule alone:", play(0, episode_jobs=128))
