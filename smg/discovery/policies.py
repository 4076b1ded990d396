"""Which policy chooses among the workers of which model. Decides only."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from smg.directory import ModelDirectory
from smg.errors import ConfigError
from smg.settings import POLICIES, Settings

log = logging.getLogger(__name__)

FLAG: Final = "--model-policy"


def read_policies(settings: Settings) -> dict[str, str]:
    """Policies by the names of models.

    Raises:
        ConfigError: an entry is not of the form MODEL=POLICY, or a model is in two of them.
    """
    if settings.model_policy and settings.prefill:
        raise ConfigError(f"{FLAG}: a model in two halves has --prefill-policy and --decode-policy")
    found: dict[str, str] = {}
    for entry in settings.model_policy:
        # The name of a model may have the sign in it, that of a policy has not.
        model, _, policy = entry.rpartition("=")
        if not model or model in found:
            raise ConfigError(f"{FLAG}: expected MODEL=POLICY, each model once: {entry!r}")
        if policy not in POLICIES:
            known = ", ".join(POLICIES)
            raise ConfigError(f"{FLAG}: unknown policy {policy!r} in {entry!r}; known are {known}")
        found[model] = policy
    return found


def with_policy(
    settings: Settings, policies: Mapping[str, str], names: Iterable[str | None]
) -> Settings:
    """The settings as they are for the model that has any of these names."""
    named = [name for name in names if name]
    policy = next((policies[name] for name in named if name in policies), None)
    chosen = settings if policy is None else replace(settings, policy=policy)
    why = "--policy" if policy is None else FLAG
    log.info("Model %s. Policy: %s (%s).", named[0] if named else "?", chosen.policy, why)
    return chosen


def warn_of_strangers(policies: Mapping[str, str], models: ModelDirectory) -> None:
    """Say which models have a policy and no worker; workers may still bring them."""
    served = {name for model in models.all() for name in (model.name, model.info.model)}
    for name in policies:
        if name not in served:
            known = ", ".join(model.name for model in models.all()) or "none"
            log.warning("%s: no worker serves %r now (served: %s)", FLAG, name, known)
