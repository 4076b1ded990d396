"""Which clients the tests drive, and in which version they are installed here."""

import json
from importlib import metadata
from pathlib import Path

NODE_FOLDER = Path(__file__).parent / "node"
PYTHON = ("openai", "openai-agents", "langchain-openai")
NODE = ("openai", "ai", "@ai-sdk/openai", "@openai/codex")


def versions() -> dict[str, str]:
    """Package to version; the npm packages as `npm:NAME`, if they are installed."""
    found = {f"pypi:{name}": metadata.version(name) for name in PYTHON}
    for name in NODE:
        package = NODE_FOLDER / "node_modules" / name / "package.json"
        if package.exists():
            found[f"npm:{name}"] = json.loads(package.read_text("utf-8"))["version"]
    return found
