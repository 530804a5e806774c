"""Demonstrations as a data set of Minari's: written and read by Minari itself.

Minari (MIT licence) is the extra ``offline``. A data set is a folder: ``data/metadata.json`` says
what it is, and each episode has a folder below ``data``. ``MINARI_DATASETS_PATH=FOLDER`` lets
``minari.load_dataset(NAME)`` find the one in ``FOLDER/NAME``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnasium.envs.registration import EnvSpec

from agents.offline.demonstrations import Demonstration
from envs.config import EnvConfig
from envs.gym import action_space, observation_space
from orchestrator.errors import ConfigurationError

__all__ = ["Recording", "read_dataset", "write_dataset"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*(-[A-Za-z0-9_.]+)*-v\d+")
_FORMATS = ("arrow", "parquet", "hdf5")


@dataclass(frozen=True)
class Recording:
    """What a data set says of itself.

    Parameters
    ----------
    name : str
        Its id, for example ``"lublin-sjf-v0"``.
    policy : str
        Who was watched.
    config : EnvConfig
        The environment as it was seen.
    spec : EnvSpec or None
        How Gymnasium makes the environment; None: not by plain values.
    command : str
        That records it again.
    storage : {"arrow", "parquet", "hdf5"}
        How steps are stored; ``hdf5`` needs h5py.
    """

    name: str
    policy: str
    config: EnvConfig
    spec: EnvSpec | None
    command: str
    storage: str = "arrow"

    def __post_init__(self) -> None:
        """Reject names that Minari would not find, and unknown storages."""
        if not _NAME.fullmatch(self.name):
            raise ConfigurationError(
                f"record: 'name' is '{self.name}'; give letters, digits, '_' and '-', and a "
                f"version at the end, for example lublin-sjf-v0"
            )
        if self.storage not in _FORMATS:
            raise ConfigurationError(
                f"record: 'storage' is '{self.storage}'; choose from {', '.join(_FORMATS)}"
            )


def _minari() -> Any:
    """The library, or an error that says how to get it."""
    try:
        import minari
        import minari.data_collector.episode_buffer
        import minari.dataset.minari_storage
    except ImportError as error:
        raise ConfigurationError(
            f"record: Minari is not installed ({error}); pip install 'quartermaster[offline]'"
        ) from None
    return minari


def write_dataset(
    folder: Path, recording: Recording, demonstrations: Iterable[Demonstration]
) -> tuple[int, int, int]:
    """Write demonstrations, each as soon as it is there.

    Parameters
    ----------
    folder : Path
        Best called ``recording.name``: so Minari finds the data set by its id.
    recording : Recording
    demonstrations : iterable of Demonstration

    Returns
    -------
    tuple of three ints
        Episodes, steps, and steps at which the rule's own choice was not offered.

    Raises
    ------
    ConfigurationError
        If Minari is not installed, or there is no episode.
    """
    minari = _minari()
    data = folder / "data"
    data.parent.mkdir(parents=True, exist_ok=True)
    storage = minari.dataset.minari_storage.MinariStorage.new(
        data,
        observation_space=observation_space(recording.config),
        action_space=action_space(recording.config),
        env_spec=recording.spec,
        data_format=recording.storage,
        jpeg_encoding=False,
    )
    episodes = steps = unseen = 0
    for each in demonstrations:
        storage.update_episodes([_buffer(minari, each)])
        told = {"window": each.window, "unseen": each.unseen, "metrics": dict(each.metrics)}
        storage.update_episode_metadata([told], [episodes])
        episodes, steps, unseen = episodes + 1, steps + len(each.actions), unseen + each.unseen
    if episodes == 0:
        raise ConfigurationError(
            "record: no window left anything to choose; play longer or busier ones"
        )
    storage.update_metadata(
        {
            "dataset_id": recording.name,
            "algorithm_name": recording.policy,
            "minari_version": minari.__version__,
            "description": f"Made by: {recording.command}",
            "requirements": ["quartermaster"],
            "unseen_steps": unseen,
        }
    )
    return episodes, steps, unseen


def _buffer(minari: Any, each: Demonstration) -> Any:
    return minari.data_collector.episode_buffer.EpisodeBuffer(
        observations=dict(each.observations),
        actions=each.actions,
        rewards=each.rewards,
        terminations=each.terminations,
        truncations=each.truncations,
    )


def read_dataset(folder: Path) -> Any:
    """The ``minari.MinariDataset`` of a folder that :func:`write_dataset` wrote to."""
    return _minari().MinariDataset(folder / "data")
