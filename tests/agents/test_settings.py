"""Settings are refused in one line, with the field and the remedy."""

import pytest

from agents.linear.settings import CMASettings
from agents.ppo.settings import PPOSettings
from agents.settings import check_number, check_seed
from orchestrator.errors import ConfigurationError


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        (CMASettings, "population", 0),
        (CMASettings, "population", 8.5),
        (CMASettings, "threads", 0),
        (CMASettings, "sigma", "wide"),
        (CMASettings, "sigma", float("nan")),
        (CMASettings, "window_jobs", 0),
        (CMASettings, "features", []),
        (CMASettings, "prior", [1]),
        (CMASettings, "prior", {"log_request": "low"}),
        (CMASettings, "budget_seconds", -1),
        (CMASettings, "resume", 5),
        (PPOSettings, "envs", 0),
        (PPOSettings, "learning_rate", -1),
        (PPOSettings, "batch", 1),
        (PPOSettings, "discount", 1.5),
        (PPOSettings, "hidden", True),
        (PPOSettings, "validate_every", 0),
        (PPOSettings, "reference", None),
    ],
)
def test_wrong_settings_name_the_field_and_what_to_give(settings, field, value):
    with pytest.raises(
        ConfigurationError, match=rf"agent.*'(?:{field}|log_request)' is "
    ) as caught:
        settings(**{field: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [CMASettings, PPOSettings])
def test_no_budget_and_no_prior_are_settings(settings):
    assert settings(budget_seconds=None, prior=None).budget_seconds is None


@pytest.mark.parametrize("settings", [CMASettings, PPOSettings])
def test_training_without_any_limit_is_refused(settings):
    none = dict.fromkeys(("budget_seconds", "total_steps", "generations"))
    with pytest.raises(ConfigurationError, match="are all null, and training would never end"):
        settings(**none)
    for name in none:
        assert settings(**{**none, name: 3})


@pytest.mark.parametrize("seed", [-1, "abc", 1.5, None, True, 2**32])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(ConfigurationError, match="'seed' is "):
        check_seed("config", seed)
    assert check_seed("config", 0) == 0


@pytest.mark.parametrize("value", [0, -3, "4", 2.0, False, None])
def test_numbers_have_a_least(value):
    with pytest.raises(ConfigurationError, match="at least 1"):
        check_number("evaluation", "windows", value, 1)
