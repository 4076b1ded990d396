"""A scripted engine and example tools: for tests, demos and offline work on agents. No model."""
