"""Use the installed wheel in an empty folder: packages, configs, one step of an environment."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path


def check_packages() -> None:
    prefix = Path(sys.prefix).resolve()
    for name in ("orchestrator", "envs", "agents", "quartermaster"):
        module = importlib.import_module(name)
        assert module.__file__ is not None, f"{name} comes from a folder without __init__.py"
        place = Path(module.__file__).resolve()
        assert place.is_relative_to(prefix), f"{name} comes from {place}, not from the wheel"
    for name in ("conf", "scripts", "tests"):
        found = importlib.util.find_spec(name)
        assert found is None, f"the wheel must not make '{name}' importable, found {found}"
    assert importlib.metadata.version("quartermaster")


def check_configs() -> int:
    from hydra import compose, initialize_config_dir

    from agents.program import config_dir

    folder = config_dir()
    assert folder.name == "_conf", f"the wheel holds no configs, found {folder}"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    assert names, f"no top-level config in {folder}"
    with initialize_config_dir(str(folder), version_base=None):
        for name in names:
            compose(name)
    return len(names)


def check_step() -> None:
    import gymnasium

    import envs

    assert envs.__file__ is not None
    env = gymnasium.make("quartermaster/JobOrdering-v0")
    env.reset(seed=0)
    env.action_space.seed(0)
    observation, reward, _, _, _ = env.step(env.action_space.sample())
    assert env.observation_space.contains(observation), "the observation is not in its space"
    assert float(reward) == float(reward), "the reward is not a number"
    env.close()


def main() -> None:
    assert not any(Path.cwd().iterdir()), "run this in an empty folder"
    check_packages()
    configs = check_configs()
    check_step()
    print(f"wheel: three packages, {configs} configs and one step, all from {sys.prefix}")


if __name__ == "__main__":
    main()
