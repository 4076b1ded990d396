"""The models served here, by name and by alias.

Models come in as they are loaded, the one a request names goes out. It must not know whether a
model is made of tokens here or lives behind HTTP.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

from smg.agent.loop import Generate
from smg.agent.run import Spoken, Start
from smg.engines.base import EngineInfo
from smg.engines.embedding import Embedding
from smg.errors import ConfigError, ModelNotFound
from smg.items import Item
from smg.turn import Turn
from smg.workers.pd import PdPool
from smg.workers.pool import Pool


class Served(Protocol):
    """A model as the gateway's parts see it, wherever its tokens are made."""

    @property
    def name(self) -> str:
        """What clients call it."""
        ...

    @property
    def pool(self) -> Pool | PdPool:
        """Its workers."""
        ...

    @property
    def created_at(self) -> int:
        """When it was loaded, in Unix seconds."""
        ...

    @property
    def info(self) -> EngineInfo:
        """What the workers say of it."""
        ...

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and output together; 0: not known."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether a worker is up."""
        ...

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Its own sampling defaults, where they are known here."""
        ...

    def thinking_kwargs(self, effort: str | None) -> Mapping[str, Any]:
        """The template arguments that stand for a reasoning effort."""
        ...

    async def count(self, turn: Turn) -> int:
        """How many tokens the turn's first prompt has."""
        ...

    async def prepare(self, turn: Turn, output: Sequence[Item], step: Generate) -> Any:
        """Make what one generation starts from."""
        ...

    async def prepare_text(self, turn: Turn, prompt: str | Sequence[int]) -> Any:
        """Make a generation that goes on with a text, or its tokens."""
        ...

    def text_of(self, ids: Sequence[int]) -> str:
        """What tokens read."""
        ...

    async def embed(
        self, texts: Sequence[str | tuple[int, ...]], dimensions: int | None
    ) -> Sequence[Embedding]:
        """A vector for each text."""
        ...

    def start_of(self, prepared: Any) -> Start:
        """What a generation will start from, and where."""
        ...

    def generate(self, prepared: Any) -> AsyncGenerator[Spoken, None]:
        """Stream one generation."""
        ...


class ModelDirectory:
    """The models served here, by name."""

    def __init__(
        self, models: Sequence[Served] = (), aliases: Mapping[str, str] | None = None
    ) -> None:
        """`aliases` are further names, each with the name it stands for."""
        self._models = {model.name: model for model in models}
        self._aliases = dict(aliases or {})

    def all(self) -> Sequence[Served]:
        """Every model, in the order they were given."""
        return tuple(self._models.values())

    def add(self, model: Served) -> None:
        """Serve one more model.

        Raises:
            ConfigError: its name is taken.
        """
        if model.name in self._models or model.name in self._aliases:
            raise ConfigError(f"Two models have the name {model.name!r}")
        self._models[model.name] = model

    def remove(self, model: Served) -> None:
        """Serve a model no longer; what uses it already may end."""
        if self._models.get(model.name) is model:
            del self._models[model.name]

    def check_aliases(self) -> None:
        """Refuse aliases of models that are not here; call it when all models are.

        Raises:
            ConfigError: there is such an alias.
        """
        for alias, name in self._aliases.items():
            if name not in self._models:
                known = ", ".join(self._models)
                raise ConfigError(f"--model-alias: {alias}={name}: there are only {known}")

    def find(self, name: str) -> Served:
        """The model of this name, or of this alias.

        Raises:
            ModelNotFound: there is none; the message names those there are.
        """
        model = self._models.get(self._aliases.get(name, name))
        if model is not None:
            return model
        known = ", ".join((*self._models, *self._aliases)) or "none"
        raise ModelNotFound(
            f"The model '{name}' does not exist here (served: {known}).", param="model"
        )
